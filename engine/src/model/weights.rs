//! A model's tensors as typed parts: what `bind.rs` finds and the forward passes to its backend.

use super::config::Norm;
use crate::experts::ExpertStore;
use crate::gguf::Bytes;
use crate::kernels::{Layout, MatrixRef};
use crate::quant::Format;
use std::sync::OnceLock;

/// A bound matrix: `rows` outputs of `cols` inputs.
#[derive(Clone)]
pub struct Matrix {
    /// How it is stored.
    pub format: &'static Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The blocks, as the file has them.
    pub(super) bytes: Bytes,
    /// As the kernels want them, see `pack.rs`.
    pub(super) packed: OnceLock<(Layout, Bytes)>,
}

impl Matrix {
    /// The matrix for kernels.
    pub fn view(&self) -> MatrixRef<'_> {
        let Self { format, rows, cols, .. } = *self;
        let (layout, bytes) =
            self.packed.get().map_or((Layout::Rows, &self.bytes), |(layout, bytes)| (*layout, bytes));
        MatrixRef { format, rows, cols, layout, bytes }
    }
}

/// A matrix with its bias.
#[derive(Clone)]
pub struct Linear {
    /// GGUF's tensor name without `.weight`, for observers.
    pub name: String,
    /// The weights.
    pub matrix: Matrix,
    /// One per output.
    pub bias: Option<Vec<f32>>,
}

/// Weights of a norm.
#[derive(Clone)]
pub struct NormWeights {
    /// Which norm.
    pub kind: Norm,
    /// `(width)`.
    pub weight: Vec<f32>,
    /// `(width)`, layer norms only.
    pub bias: Option<Vec<f32>>,
}

/// All tensors of a model.
pub struct Weights {
    /// `(vocab_size, embedding_length)`.
    pub token_embedding: Matrix,
    /// `(context_length, embedding_length)`.
    pub position_embedding: Option<Matrix>,
    /// One per layer.
    pub layers: Vec<LayerWeights>,
    /// Before the head.
    pub output_norm: NormWeights,
    /// The head; the token embedding where the file ties them.
    pub output: Linear,
    /// Routed experts of all layers.
    pub experts: ExpertStore,
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
        let layers =
            self.layers.iter().flat_map(|layer| layer.attention.matrices().chain(layer.ffn.matrices()));
        layers.chain([&self.output.matrix])
    }

    /// Bytes of [`Weights::dense`].
    pub(super) fn dense_bytes(&self) -> u64 {
        self.dense().map(|matrix| matrix.bytes.len() as u64).sum()
    }
}

impl AttentionWeights {
    fn matrices(&self) -> Box<dyn Iterator<Item = &Matrix> + '_> {
        match self {
            Self::Grouped(grouped) => {
                let qkv = grouped.qkv.iter().map(|(linear, _)| linear);
                Box::new(qkv.chain([&grouped.output]).map(|linear| &linear.matrix))
            }
            Self::Latent(latent) => {
                let before = latent.q_a.iter().map(|(linear, _)| linear).chain([&latent.q, &latent.kv_a]);
                let heads = latent.k_b.iter().chain(&latent.v_b);
                Box::new(before.map(|linear| &linear.matrix).chain(heads).chain([&latent.output.matrix]))
            }
        }
    }
}

impl FfnWeights {
    fn matrices(&self) -> Box<dyn Iterator<Item = &Matrix> + '_> {
        match self {
            Self::Dense(ffn) => Box::new(ffn.matrices()),
            Self::Experts(router) => {
                let shared = router.shared.iter().flat_map(|(ffn, _)| ffn.matrices());
                Box::new(std::iter::once(&router.router.matrix).chain(shared))
            }
        }
    }
}

impl GatedWeights {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.gate.iter().chain([&self.up, &self.down]).map(|linear| &linear.matrix)
    }
}

/// Tensors of one layer, experts aside.
pub struct LayerWeights {
    /// Before attention.
    pub attention_norm: NormWeights,
    /// Attention.
    pub attention: AttentionWeights,
    /// On attention's output.
    pub attention_post_norm: Option<NormWeights>,
    /// Before the FFN.
    pub ffn_norm: NormWeights,
    /// FFN or router.
    pub ffn: FfnWeights,
    /// On the FFN's output.
    pub ffn_post_norm: Option<NormWeights>,
}

/// Attention's tensors by kind.
pub enum AttentionWeights {
    /// Grouped attention.
    Grouped(Box<GroupedWeights>),
    /// Latent attention.
    Latent(Box<LatentWeights>),
}

/// Tensors of grouped attention.
pub struct GroupedWeights {
    /// q, k, v, or all three in one, with the column of the joined row where each starts.
    pub qkv: Vec<(Linear, usize)>,
    /// On queries.
    pub q_norm: Option<NormWeights>,
    /// On keys.
    pub k_norm: Option<NormWeights>,
    /// One logit per query head.
    pub sinks: Option<Vec<f32>>,
    /// Back to the residual stream.
    pub output: Linear,
}

/// Tensors of latent attention.
pub struct LatentWeights {
    /// To the compressed query and its norm.
    pub q_a: Option<(Linear, NormWeights)>,
    /// To all query heads.
    pub q: Linear,
    /// To the latent row and the shared rotated key.
    pub kv_a: Linear,
    /// On the latent row.
    pub kv_a_norm: NormWeights,
    /// Per head: `(kv_lora_rank, nope_length)`.
    pub k_b: Vec<Matrix>,
    /// Per head: `(value_length, kv_lora_rank)`.
    pub v_b: Vec<Matrix>,
    /// Back to the residual stream.
    pub output: Linear,
}

/// Up, down and where the activation has one, gate.
pub struct GatedWeights {
    /// Through the activation.
    pub gate: Option<Linear>,
    /// To the hidden width.
    pub up: Linear,
    /// Back.
    pub down: Linear,
}

/// The FFN's tensors by kind.
pub enum FfnWeights {
    /// One FFN.
    Dense(Box<GatedWeights>),
    /// Experts; their matrices are in the store.
    Experts(Box<RouterWeights>),
}

/// What of an expert layer is always needed.
pub struct RouterWeights {
    /// `(expert_count, embedding_length)`.
    pub router: Linear,
    /// Added to scores for the choice only.
    pub choice_bias: Option<Vec<f32>>,
    /// The always active FFN, and the row of its sigmoid gate.
    pub shared: Option<(GatedWeights, Option<Linear>)>,
}
