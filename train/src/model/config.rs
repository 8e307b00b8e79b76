//! What a model is, whatever its architecture calls it. The files of the architectures fill this in from config.json.

use super::keys::Keys;
use super::roles::{Piece, Role};
use crate::Result;
use crate::ops::{Activation, NormKind, RotationStyle};
use serde_json::Value;

/// How an architecture's own code calls things.
pub struct Architecture {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// `architectures` in config.json.
    pub class: &'static str,
    /// The key of the vocabulary's size.
    pub vocabulary_key: &'static str,
    /// The key of the context's length.
    pub context_key: &'static str,
    pub(super) read: fn(&Keys) -> Result<Config>,
    /// The tensors of its dense twin, `(out, in)` each, that an expert of this role is made of, one below the other.
    pub dense_twin: fn(Role, usize) -> Option<Vec<String>>,
    /// The one tensor that newer releases have for this role, whose weights it may come from.
    pub fused: fn(Role, usize, &[usize]) -> Option<Piece>,
    pub(super) pieces: fn(&Config, Role, usize, &[usize]) -> Vec<Piece>,
}

/// The shape and the rules of a model.
#[derive(Clone)]
pub struct Config {
    /// Whose names and keys it has.
    pub architecture: &'static Architecture,
    /// config.json with every value that counts, under the architecture's own names.
    pub source: Value,
    /// Tokens.
    pub vocabulary: usize,
    /// Positions.
    pub context_length: usize,
    /// Numbers of the residual stream.
    pub embedding_length: usize,
    /// Layers.
    pub block_count: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads.
    pub head_count_kv: usize,
    /// Numbers of a head.
    pub head_length: usize,
    /// Kind of all norms over rows.
    pub norm: NormKind,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f64,
    /// Norms of queries and keys before they are rotated.
    pub head_norm: Option<HeadNorms>,
    /// How positions enter.
    pub position: Position,
    /// Whether attention and feed-forward networks have biases, as far as their architecture knows any.
    pub bias: Biases,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Between the matrices of feed-forward networks.
    pub activation: Activation,
    /// Hidden numbers of a dense network.
    pub feed_forward_length: usize,
    /// Which layers have experts.
    pub routed: Vec<bool>,
    /// The experts of a layer.
    pub experts: Experts,
    /// Share of numbers dropped while training: embeddings, attention, outputs.
    pub dropout: f64,
    /// How weights begin.
    pub initialisation: Initialisation,
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many of them a token uses.
    pub used: usize,
    /// Hidden numbers of each.
    pub length: usize,
    /// Hidden numbers of the shared expert that every token uses, all shared ones together; 0 without.
    pub shared_length: usize,
    /// How many shared experts that is.
    pub shared_count: usize,
    /// Slots per expert as a multiple of an even load; without, no token is ever dropped.
    pub capacity: Option<f64>,
    /// Whether training adds learned noise to the router's scores.
    pub noise: bool,
    /// Whether the weights of a token's experts add up to 1.
    pub normalised: bool,
    /// What the load-balance loss counts together.
    pub balance: Balance,
    /// Factor of the load-balance loss.
    pub load_balance: f64,
    /// Factor of the router's z-loss.
    pub router_z: f64,
}

/// What the load-balance loss counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Each layer by itself, with shares of all choices; the layers' losses are added up. Even is 1 a layer.
    PerLayer,
    /// The tokens of all layers, with choices per token, as transformers has it. Even is the number of used experts.
    AllLayers,
}

impl Experts {
    /// Of a model without any.
    pub(super) fn none() -> Self {
        Self {
            count: 0,
            used: 0,
            length: 0,
            shared_length: 0,
            shared_count: 0,
            capacity: None,
            noise: false,
            normalised: true,
            balance: Balance::PerLayer,
            load_balance: 0.0,
            router_z: 0.0,
        }
    }
}

/// What a norm of queries or keys covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorms {
    /// Each head by itself, with the same weights.
    Each,
    /// All heads of a token together.
    All,
}

/// Where biases stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// In the projections of attention and in dense networks.
    pub dense: bool,
    /// In the experts.
    pub experts: bool,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// Queries and keys are rotated.
    Rotary {
        /// Which numbers form a pair.
        style: RotationStyle,
        /// Base of the wavelengths.
        theta: f64,
    },
    /// A learned row per position is added to the embedding.
    Learned,
}

/// How weights begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialisation {
    /// Normal with this deviation; biases 0.
    Normal(f64),
    /// Normal with deviation `sqrt(range / fan in)`, cut at two deviations; biases 0.
    TruncatedFanIn(f64),
    /// As PyTorch's layers begin: embeddings normal with deviation 1, the rest uniform in `1 / sqrt(fan in)`.
    Torch,
}

impl Config {
    /// Whether layer `index` has experts.
    pub fn has_experts(&self, index: usize) -> bool {
        self.routed.get(index).copied().unwrap_or_default()
    }

    /// How many layers have experts.
    pub fn expert_layers(&self) -> usize {
        (0..self.block_count).filter(|&index| self.has_experts(index)).count()
    }

    /// Numbers of queries, keys and values of a token together.
    pub fn qkv_length(&self) -> usize {
        (self.head_count + 2 * self.head_count_kv) * self.head_length
    }
}
