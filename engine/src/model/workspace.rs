//! Scratch of a forward: what its steps hand on, and how much memory that takes.

use super::Model;
use super::backend::Backend;
use super::config::Config;
use super::ffn::{self, Ffn};
use super::mixer::{self, Mixer};
use super::stream_rows;
use super::weights::Layer;

/// Scratch of a forward, allocated once and grown to the largest batch seen.
pub struct Workspace<B: Backend> {
    pub(super) x: B::Buffer,      // the residual stream (rows, embedding_length)
    pub(super) normed: B::Buffer, // input of a half (rows, embedding_length)
    pub(super) added: B::Buffer,  // output of a half (rows, embedding_length)
    pub(super) mixer: mixer::Scratch<B>,
    pub(super) ffn: ffn::Scratch<B>,
    pub(super) angles: Vec<B::Buffer>, // cosines and sines per rotation (rows, dims)
    pub(super) logits: B::Buffer,      // (rows that want them, vocab_size)
    pub(super) streams: stream_rows::Scratch<B>,
    pub(super) best: B::Buffer, // of rows that want no more than the best tokens
    /// Whether routing drops tokens beyond the capacity, as the original does.
    pub drop_tokens: bool,
}

impl<B: Backend> Workspace<B> {
    /// Empty scratch for `model`.
    pub fn new(backend: &B, config: &Config) -> Self {
        let buffer = |width| backend.buffer(width);
        Self {
            x: buffer(config.embedding_length),
            normed: buffer(config.embedding_length),
            added: buffer(config.embedding_length),
            mixer: mixer::Scratch::new(backend),
            ffn: ffn::Scratch::new(backend),
            angles: config.ropes.iter().map(|rope| buffer(rope.dims())).collect(),
            logits: buffer(config.vocab_size),
            streams: stream_rows::Scratch::new(backend),
            best: buffer(0),
            drop_tokens: false,
        }
    }

    /// Logits of the rows that wanted them, in their order.
    pub fn logits(&self) -> &B::Buffer {
        &self.logits
    }

    /// The same, to be fetched.
    pub fn logits_mut(&mut self) -> &mut B::Buffer {
        &mut self.logits
    }

    /// The best tokens of these rows, where the backend found them.
    pub fn best(&self) -> &B::Buffer {
        &self.best
    }
}

/// Bytes that the scratch of a step of `rows` rows takes, of which `with_logits` want logits: values, and beside
/// them codes with a scale and sums for every 32.
pub fn scratch_bytes(model: &Model, rows: usize, with_logits: usize) -> u64 {
    let (config, layers) = (&model.config, model.weights.layers.iter());
    let row = 3 * config.embedding_length
        + stream_rows::columns(config.streams, config.embedding_length)
        + Mixer::scratch_columns(layers.clone().filter_map(Layer::mixer))
        + Ffn::scratch_columns(layers.filter_map(Layer::ffn));
    (rows * row * (4 + 1 + 1) + with_logits * config.vocab_size * 4) as u64
}
