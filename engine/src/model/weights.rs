//! All tensors of a model, layer by layer: what `bind.rs` finds and the forward passes to its backend.

use super::ffn::Ffn;
use super::matrix::{Linear, Matrix, NormWeights};
use super::mixer::Mixer;
use super::moe::Choosing;
use super::streams::{Ends, Mixing};
use crate::experts::ExpertStore;

/// All tensors of a model.
pub struct Weights {
    /// `(vocab_size, embedding_length)`.
    pub token_embedding: Matrix,
    /// `(context_length, embedding_length)`.
    pub position_embedding: Option<Matrix>,
    /// One per layer.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub output_norm: NormWeights,
    /// What several residual streams have alike, and what ends them.
    pub ends: Option<Ends>,
    /// The head; the token embedding where the file ties them.
    pub output: Linear,
    /// Routed experts of all layers.
    pub experts: ExpertStore,
    /// Whether adapters stand beside any of it.
    pub is_adapted: bool,
}

impl Weights {
    /// Bytes of matrices of which a token reads a row: the embedding, unless it is the head as well, and positions.
    pub(super) fn table_bytes(&self) -> u64 {
        let is_tied = std::ptr::eq(&*self.token_embedding.bytes, &*self.output.matrix.bytes);
        let embedding = if is_tied { 0 } else { self.token_embedding.bytes.len() };
        (embedding + self.position_embedding.as_ref().map_or(0, |table| table.bytes.len())) as u64
    }

    /// All matrices that every token passes, in the order of their use.
    pub(super) fn dense(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            let mixer = layer.mixer().map(Mixer::matrices).unwrap_or_default();
            mixer.into_iter().chain(layer.ffn().map(Ffn::matrices).unwrap_or_default())
        });
        let of_streams = self.layers.iter().flat_map(|layer| {
            let mixer = layer.mixer.as_ref().and_then(|half| half.mixing.as_ref());
            mixer.into_iter().chain(layer.ffn.as_ref().and_then(|half| half.mixing.as_ref()))
        });
        let of_streams = of_streams.chain(self.ends.as_ref().map(|ends| &ends.output));
        layers.chain(of_streams.map(|mixing| &mixing.linear.matrix)).chain([&self.output.matrix])
    }

    /// Bytes of [`Weights::dense`].
    pub(super) fn dense_bytes(&self) -> u64 {
        self.dense().map(|matrix| matrix.bytes.len() as u64).sum()
    }
}

/// One layer, its routed experts aside. Some models' layers have one half only.
pub struct Layer {
    /// What mixes positions.
    pub mixer: Option<Sublayer<Mixer>>,
    /// The second half.
    pub ffn: Option<Sublayer<Ffn>>,
    /// Factor on the residual stream behind both.
    pub output_scale: Option<f32>,
}

impl Layer {
    pub(super) fn mixer(&self) -> Option<&Mixer> {
        self.mixer.as_ref().map(|mixer| &mixer.kind)
    }

    pub(super) fn ffn(&self) -> Option<&Ffn> {
        self.ffn.as_ref().map(|ffn| &ffn.kind)
    }

    /// What chooses its experts, where it has any.
    pub(super) fn choosing(&self) -> Option<Choosing<'_>> {
        match &self.ffn {
            Some(Sublayer { norm, kind: Ffn::Experts(experts), .. }) => Some(experts.choosing(norm)),
            _ => None,
        }
    }
}

/// A half of a layer with the norms around it.
pub struct Sublayer<K> {
    /// On its input.
    pub norm: NormWeights,
    /// What it computes.
    pub kind: K,
    /// On its output.
    pub post_norm: Option<NormWeights>,
    /// What chooses its part of several residual streams.
    pub mixing: Option<Mixing>,
}
