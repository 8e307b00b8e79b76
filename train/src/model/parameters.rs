//! The parameters of a model: what each is for, its shape, how it begins, and the tensors it is exported as.
//!
//! Inside, matrices that are multiplied together lie together (queries, keys and values; gates and ups of all experts,
//! each as (out, in)); outside they have the names and shapes of the architecture's own code.

use super::config::{Config, HeadNorms, Initialisation};
use super::roles::{Piece, Role};
use crate::random::Random;
use rayon::prelude::*;

/// One parameter before it has values.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is for.
    pub role: Role,
    /// In which layer; 0 outside of layers.
    pub layer: usize,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Inputs of the matrix, or of the matrix that a bias belongs to.
    pub fan_in: usize,
    /// What it is exported as.
    pub pieces: Vec<Piece>,
}

/// All parameters of `config` in the order in which a token meets them.
pub(super) fn specs(config: &Config) -> Vec<Spec> {
    let mut specs = vec![];
    let mut add = |role: Role, layer: usize, shape: Vec<usize>| {
        let pieces = (config.architecture.pieces)(config, role, layer, &shape);
        let fan_in = fan_in(config, role, &shape);
        specs.push(Spec { role, layer, shape, fan_in, pieces });
    };
    let d = config.embedding_length;
    let has_norm_bias = config.norm == crate::ops::NormKind::Layer;
    add(Role::TokenEmbedding, 0, vec![config.vocabulary, d]);
    if config.position == super::config::Position::Learned {
        add(Role::PositionEmbedding, 0, vec![config.context_length, d]);
    }
    for layer in 0..config.block_count {
        layer_shapes(config, layer, &mut add);
    }
    add(Role::OutputNorm, 0, vec![d]);
    if has_norm_bias {
        add(Role::OutputNormBias, 0, vec![d]);
    }
    if !config.tied {
        add(Role::Output, 0, vec![config.vocabulary, d]);
    }
    specs
}

fn fan_in(config: &Config, role: Role, shape: &[usize]) -> usize {
    match role {
        Role::QkvBias | Role::UpBias | Role::ExpertsUpBias => config.embedding_length,
        Role::AttentionOutputBias => config.head_count * config.head_length,
        Role::DownBias => config.feed_forward_length,
        Role::ExpertsDownBias => config.experts.length,
        _ => shape[shape.len() - 1],
    }
}

fn layer_shapes(config: &Config, layer: usize, add: &mut impl FnMut(Role, usize, Vec<usize>)) {
    let (d, qkv, head) = (config.embedding_length, config.qkv_length(), config.head_length);
    let has_norm_bias = config.norm == crate::ops::NormKind::Layer;
    let mut add_if = |condition: bool, role, shape: &[usize]| {
        if condition {
            add(role, layer, shape.to_vec());
        }
    };
    add_if(true, Role::AttentionNorm, &[d]);
    add_if(has_norm_bias, Role::AttentionNormBias, &[d]);
    add_if(true, Role::Qkv, &[qkv, d]);
    add_if(config.bias.dense, Role::QkvBias, &[qkv]);
    let normed = |heads: usize| if config.head_norm == Some(HeadNorms::All) { heads * head } else { head };
    add_if(config.head_norm.is_some(), Role::QueryNorm, &[normed(config.head_count)]);
    add_if(config.head_norm.is_some(), Role::KeyNorm, &[normed(config.head_count_kv)]);
    add_if(true, Role::AttentionOutput, &[d, config.head_count * head]);
    add_if(config.bias.dense, Role::AttentionOutputBias, &[d]);
    add_if(true, Role::FfnNorm, &[d]);
    add_if(has_norm_bias, Role::FfnNormBias, &[d]);
    let branches = config.activation.branches();
    if !config.has_experts(layer) {
        let hidden = config.feed_forward_length;
        add_if(true, Role::Up, &[branches * hidden, d]);
        add_if(config.bias.dense, Role::UpBias, &[branches * hidden]);
        add_if(true, Role::Down, &[d, hidden]);
        add_if(config.bias.dense, Role::DownBias, &[d]);
        return;
    }
    let experts = &config.experts;
    add_if(true, Role::Router, &[experts.count, d]);
    add_if(experts.noise, Role::RouterNoise, &[experts.count, d]);
    add_if(true, Role::ExpertsUp, &[experts.count, branches * experts.length, d]);
    add_if(config.bias.experts, Role::ExpertsUpBias, &[experts.count, branches * experts.length]);
    add_if(true, Role::ExpertsDown, &[experts.count, d, experts.length]);
    add_if(config.bias.experts, Role::ExpertsDownBias, &[experts.count, d]);
    let shared = experts.shared_length;
    add_if(shared > 0, Role::SharedUp, &[branches * shared, d]);
    add_if(shared > 0, Role::SharedDown, &[d, shared]);
}

impl Spec {
    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its first values: a function of `seed`, `index` (which parameter it is) and the architecture's rule.
    pub fn initial(&self, rule: Initialisation, seed: u64, index: usize) -> Vec<f32> {
        if self.role.is_norm() {
            return vec![1.0; self.count()];
        }
        let zero_bias = self.role.is_norm_bias() || (self.role.is_bias() && rule != Initialisation::Torch);
        if zero_bias {
            return vec![0.0; self.count()];
        }
        let fan_in = self.fan_in as f64;
        let draw = |random: &mut Random| match rule {
            Initialisation::Normal(deviation) => deviation * random.normal(),
            Initialisation::TruncatedFanIn(range) => (range / fan_in).sqrt() * random.truncated_normal(2.0),
            Initialisation::Torch if self.role.is_embedding() => random.normal(),
            Initialisation::Torch => (2.0 * random.uniform() - 1.0) / fan_in.sqrt(),
        };
        let mut values = vec![0.0; self.count()];
        values.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, values)| {
            let mut random = Random::at(seed, &[index as u64, chunk as u64]);
            values.iter_mut().for_each(|value| *value = draw(&mut random) as f32);
        });
        values
    }
}
