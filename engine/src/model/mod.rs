//! Models: what a file describes (`config.rs`), its weights, and the one forward that computes all of them.
//!
//! An architecture is one file of data plus one line in [`ARCHITECTURES`]; no other file names one. A new
//! behaviour is a field of [`Config`] with an enum, never a question about the architecture's name.

mod adapter;
mod backend;
mod bind;
mod binder;
mod config;
pub mod ffn;
mod keys;
mod kinds;
mod kv_cache;
mod limit;
mod matrix;
pub mod mixer;
mod moe;
mod observe;
mod pack;
mod pool;
mod recurrent;
mod rope_scaling;
mod state;
mod step;
mod stream_rows;
mod streams;
mod supported;
mod transformer;
mod unread;
mod weights;
mod workspace;

mod bailingmoe2;
mod deepseek2;
mod deepseek32;
mod deepseek4;
mod dots1;
mod ernie4_5_moe;
mod gemma3;
mod gemma4;
mod glm4moe;
mod glm_dsa;
mod gpt_oss;
mod granitehybrid;
mod granitemoe;
mod lfm2moe;
mod llama;
mod minimax_m2;
mod moe_124m;
mod moe_gpt;
mod nemotron_h_moe;
mod olmoe;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen35moe;
mod qwen3moe;
mod qwen3next;

pub use adapter::{Adapter, Pair};
pub use backend::{Backend, Cpu, Cuda, CudaState, HostBuffer, Missing, Plain, Setup};
pub use config::{Config, Layer};
pub use keys::Keys;
pub use kv_cache::KvCache;
pub use matrix::{Linear, Matrix, Norm};
pub use mixer::grouped::QkNorm;
pub use moe::Routing;
pub use observe::{Nothing, Observe, Site};
pub use pool::{PAGE, Pool};
pub use recurrent::SNAPSHOTS;
pub use state::{Entries, Memory, Pages, State};
pub use step::{Best, ConvStep, EntriesStep, Factor, KeyHeads, Row, ScanStep, Update, Wants};
pub use streams::{Ends, Mixing, Streams};
pub use transformer::forward;
pub use weights::{Sublayer, Weights};
pub use workspace::{Workspace, scratch_bytes};

use crate::error::{Error, Result};
use crate::experts::Trace;
use crate::gguf::{Bytes, Gguf};
use crate::ops::{Activation, Rope, RopeStyle};
use ffn::Ffn;
use ffn::experts::Gating;

/// What an architecture fixes for all its models; everything else stands in a file's metadata.
pub struct Architecture {
    /// `general.architecture` in GGUF files.
    pub name: &'static str,
    /// Layer norm instead of RMS norm.
    pub layer_norm: bool,
    /// How heads turn with the position; `None` for learned positions.
    pub rope: Option<RopeStyle>,
    /// Norm on queries and keys before they turn.
    pub qk_norm: Option<QkNorm>,
    /// Of dense and expert FFNs.
    pub activation: Activation,
    /// Where `expert_gating_func` is not in the file.
    pub gating: Gating,
    /// Whether chosen weights are divided by their sum, where `expert_weights_norm` is not in the file.
    pub normalise: bool,
    /// Norms on the outputs of attention and FFN.
    pub post_norms: bool,
    /// Tensor name of the norm before the FFN.
    pub ffn_norm: &'static str,
    /// Tensor name of the norm before the head.
    pub output_norm: &'static str,
    /// YaRN rounds its corner dimensions to whole pairs.
    pub yarn_whole_pairs: bool,
    /// The distinct rotations; layers name one by index.
    pub ropes: fn(&Keys<'_>, &Architecture) -> Result<Vec<Rope>>,
    /// What mixes positions in a layer.
    pub mixer: fn(&Keys<'_>, &Architecture, usize) -> Result<Option<mixer::Shape>>,
    /// The second half of a layer.
    pub ffn: fn(&Keys<'_>, &Architecture, usize) -> Result<Option<ffn::Shape>>,
    /// Factor on token embeddings.
    pub embedding_scale: fn(&Keys<'_>) -> Result<f32>,
    /// The bound of logits.
    pub logit_cap: fn(&Keys<'_>) -> Result<Option<f32>>,
    /// Residual streams, where there are several.
    pub streams: fn(&Keys<'_>) -> Result<Option<Streams>>,
}

impl Architecture {
    /// Llama's choices, the commonest; others state their differences.
    const LLAMA: Architecture = Architecture {
        name: "llama",
        layer_norm: false,
        rope: Some(RopeStyle::Norm),
        qk_norm: None,
        activation: Activation::Silu,
        gating: Gating::Softmax,
        normalise: true,
        post_norms: false,
        ffn_norm: "ffn_norm",
        output_norm: "output_norm",
        yarn_whole_pairs: true,
        ropes: rope_scaling::of_heads,
        mixer: mixer::grouped::read,
        ffn: ffn::read,
        embedding_scale: |keys| Ok(keys.float("embedding_scale")?.unwrap_or(1.0)),
        logit_cap: |_| Ok(None),
        streams: |_| Ok(None),
    };
}

/// Every architecture this program computes.
pub static ARCHITECTURES: &[&Architecture] = &[
    &llama::ARCHITECTURE,
    &olmoe::ARCHITECTURE,
    &qwen2::ARCHITECTURE,
    &qwen2moe::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &qwen3moe::ARCHITECTURE,
    &qwen3next::ARCHITECTURE,
    &qwen35::ARCHITECTURE,
    &qwen35moe::ARCHITECTURE,
    &gemma3::ARCHITECTURE,
    &gemma4::ARCHITECTURE,
    &granitemoe::ARCHITECTURE,
    &granitehybrid::ARCHITECTURE,
    &nemotron_h_moe::ARCHITECTURE,
    &lfm2moe::ARCHITECTURE,
    &deepseek2::ARCHITECTURE,
    &deepseek32::ARCHITECTURE,
    &deepseek4::ARCHITECTURE,
    &dots1::ARCHITECTURE,
    &ernie4_5_moe::ARCHITECTURE,
    &gpt_oss::ARCHITECTURE,
    &bailingmoe2::ARCHITECTURE,
    &glm4moe::ARCHITECTURE,
    &glm_dsa::ARCHITECTURE,
    &minimax_m2::ARCHITECTURE,
    &moe_gpt::ARCHITECTURE,
    &moe_124m::ARCHITECTURE,
];

/// A described and bound model.
pub struct Model {
    /// Hyper-parameters.
    pub config: Config,
    /// Tensors.
    pub weights: Weights,
}

impl Model {
    /// Reads the description of a file and binds its tensors, checking every shape.
    ///
    /// # Errors
    /// When the architecture is unknown, a key is missing or out of bounds, or a tensor is missing, surplus or
    /// of another shape than the keys say.
    pub fn bind(gguf: &Gguf) -> Result<Self> {
        Self::bind_with(gguf, &[])
    }

    /// The same with adapters beside its matrices.
    ///
    /// # Errors
    /// As [`Model::bind`]; adapters of another architecture, or for matrices that it lacks.
    pub fn bind_with(gguf: &Gguf, adapters: &[Adapter]) -> Result<Self> {
        let name = gguf.metadata().require_str("general.architecture")?;
        if gguf.metadata().str("general.type")? == Some("adapter") {
            let hint = "give its base as the model, and it with --lora";
            return Err(Error::unsupported("an adapter, not a model", hint));
        }
        let architecture = ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.name).collect();
            Error::unsupported(
                format!("architecture `{name}` is not known here"),
                format!("these are: {}", known.join(", ")),
            )
        })?;
        let config = config::read(gguf, architecture)?;
        let adapters = adapter::Adapters::new(adapters, name)?;
        let weights = bind::bind(gguf, architecture, &config, &adapters)?;
        Ok(Self { config, weights })
    }
}

impl Model {
    /// Computes with `used` experts per token, and without those below `threshold` of their row's weight. Both change
    /// what the model says.
    ///
    /// # Errors
    /// When a layer has fewer experts, or the threshold is not in 0..1.
    pub fn use_experts(&mut self, used: Option<usize>, threshold: f32) -> Result<()> {
        if !(0.0..1.0).contains(&threshold) {
            return Err(Error::request(format!(
                "a threshold for experts is a share of the weight, at least 0 and below 1, not {threshold}"
            )));
        }
        for layer in &mut self.weights.layers {
            let Some(Sublayer { kind: Ffn::Experts(experts), .. }) = &mut layer.ffn else { continue };
            let count = experts.most_used();
            let experts = experts.shape_mut();
            let used = used.unwrap_or(experts.expert_used_count);
            if !(1..=count).contains(&used) {
                return Err(Error::request(format!("this model can use 1 to {count} experts, not {used}")));
            }
            (experts.expert_used_count, experts.threshold) = (used, threshold);
        }
        Ok(())
    }

    /// Takes the choices of experts from a recording, by position, in the place of the routers'; beyond its end it begins
    /// anew. What the model then says means nothing, but the expert store has the recorded model's work.
    ///
    /// # Errors
    /// When the recording has other layers or experts, or fewer choices, or routers choose in groups or with a bias.
    pub fn follow(&mut self, trace: &Trace) -> Result<()> {
        let layers = self.weights.layers.iter_mut();
        let experts = layers.filter_map(|layer| match &mut layer.ffn {
            Some(Sublayer { kind: Ffn::Experts(experts), .. }) => Some(experts),
            _ => None,
        });
        let experts: Vec<_> = experts.collect();
        if experts.len() != trace.layers.len() || trace.tokens.is_empty() {
            return Err(Error::request(format!(
                "the recording has {} layers of experts and {} tokens, the model {} layers; give one of this model, or of \
                 one with as many layers and experts",
                trace.layers.len(),
                trace.tokens.len(),
                experts.len()
            )));
        }
        experts.into_iter().enumerate().try_for_each(|(place, experts)| experts.follow(trace, place))
    }

    /// Bytes of all matrices but the routed experts'.
    pub fn dense_bytes(&self) -> u64 {
        self.weights.dense_bytes() + self.weights.table_bytes()
    }

    /// Where the matrices are that every token passes, in the order of their use.
    pub fn dense_weights(&self) -> impl Iterator<Item = &Bytes> {
        self.weights.dense().map(|matrix| &matrix.bytes)
    }

    /// Bytes of weights that one token reads: all dense matrices but the embedding table, and the active share of
    /// each layer's experts.
    pub fn bytes_per_token(&self) -> u64 {
        let mut bytes = self.weights.dense_bytes();
        for (i, layer) in self.weights.layers.iter().enumerate() {
            if let Some(Ffn::Experts(experts)) = layer.ffn() {
                let experts = experts.shape();
                let all = self.weights.experts.layer_bytes(i);
                bytes += all / experts.expert_count as u64 * experts.expert_used_count as u64;
            }
        }
        bytes
    }
}
