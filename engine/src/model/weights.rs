//! A model's tensors as typed parts: what `bind.rs` finds and the forward passes to its backend.

use super::config::Norm;
use crate::experts::ExpertStore;
use crate::gguf::Bytes;
use crate::kernels::MatrixRef;
use crate::quant::Format;

/// A bound matrix: `rows` outputs of `cols` inputs.
#[derive(Clone)]
pub struct Matrix {
    /// How it is stored.
    pub format: &'static Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The blocks.
    pub(super) bytes: Bytes,
}

impl Matrix {
    /// The matrix for kernels.
    pub fn view(&self) -> MatrixRef<'_> {
        MatrixRef { format: self.format, rows: self.rows, cols: self.cols, bytes: &self.bytes }
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
    /// Bytes of all matrices that every token passes.
    pub(super) fn dense_bytes(&self) -> u64 {
        let mut bytes = self.output.matrix.bytes.len();
        for layer in &self.layers {
            bytes += match &layer.attention {
                AttentionWeights::Grouped(grouped) => {
                    let qkv = grouped.qkv.iter().map(|(linear, _)| linear);
                    qkv.chain([&grouped.output]).map(Linear::byte_len).sum()
                }
                AttentionWeights::Latent(latent) => latent.byte_len(),
            };
            bytes += match &layer.ffn {
                FfnWeights::Dense(ffn) => ffn.byte_len(),
                FfnWeights::Experts(router) => {
                    router.router.byte_len() + router.shared.as_ref().map_or(0, |(ffn, _)| ffn.byte_len())
                }
            };
        }
        bytes as u64
    }
}

impl Linear {
    fn byte_len(&self) -> usize {
        self.matrix.bytes.len()
    }
}

impl GatedWeights {
    fn byte_len(&self) -> usize {
        self.gate.iter().chain([&self.up, &self.down]).map(Linear::byte_len).sum()
    }
}

impl LatentWeights {
    fn byte_len(&self) -> usize {
        let linears = self.q_a.iter().map(|(linear, _)| linear).chain([&self.q, &self.kv_a, &self.output]);
        let heads = self.k_b.iter().chain(&self.v_b).map(|matrix| matrix.bytes.len());
        linears.map(Linear::byte_len).chain(heads).sum()
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
