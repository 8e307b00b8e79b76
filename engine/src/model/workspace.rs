//! Scratch of a forward: what its steps hand on, and how much memory that takes.

use super::Model;
use super::backend::Backend;
use super::config::Config;
use super::ffn::{self, Ffn};
use super::mixer::{self, Mixer};

/// Scratch of a forward, allocated once and grown to the largest batch seen.
pub struct Workspace<T> {
    pub(super) x: T,      // the residual stream (rows, embedding_length)
    pub(super) normed: T, // input of a half (rows, embedding_length)
    pub(super) added: T,  // output of a half (rows, embedding_length)
    pub(super) mixer: mixer::Scratch<T>,
    pub(super) ffn: ffn::Scratch<T>,
    pub(super) angles: Vec<T>, // cosines and sines per rotation (rows, dims)
    pub(super) logits: T,      // (rows that want them, vocab_size)
    /// Whether routing drops tokens beyond the capacity, as the original does.
    pub drop_tokens: bool,
}

impl<T> Workspace<T> {
    /// Empty scratch for `model`.
    pub fn new<B: Backend<Buffer = T>>(backend: &B, config: &Config) -> Self {
        let buffer = |width| backend.buffer(width);
        // What the kinds hand on gets its width in every step.
        let empty = || backend.buffer(0);
        Self {
            x: buffer(config.embedding_length),
            normed: buffer(config.embedding_length),
            added: buffer(config.embedding_length),
            mixer: mixer::Scratch::new(&empty),
            ffn: ffn::Scratch::new(&empty),
            angles: config.ropes.iter().map(|rope| buffer(rope.dims())).collect(),
            logits: buffer(config.vocab_size),
            drop_tokens: false,
        }
    }

    /// Bytes that the scratch of a step of `rows` rows takes, of which `with_logits` want logits: values, and beside
    /// them codes with a scale and sums for every 32.
    pub fn bytes(model: &Model, rows: usize, with_logits: usize) -> u64 {
        let (config, layers) = (&model.config, model.weights.layers.iter());
        let row = 3 * config.embedding_length
            + Mixer::scratch_columns(layers.clone().map(|layer| &layer.mixer))
            + Ffn::scratch_columns(layers.map(|layer| &layer.ffn));
        (rows * row * (4 + 1 + 1) + with_logits * config.vocab_size * 4) as u64
    }

    /// Logits of the rows that wanted them, in their order.
    pub fn logits(&self) -> &T {
        &self.logits
    }
}
