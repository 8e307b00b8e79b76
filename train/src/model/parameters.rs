//! The parameters of a model: what each is for, its shape, how it begins, and the tensors it is exported as.
//!
//! Inside, matrices that are multiplied together lie together (queries, keys and values; gates and ups of all experts,
//! each as (out, in)); outside they have the names and shapes of the architecture's own code.

use super::config::{Config, HeadNorms, Initialisation};
use crate::random::Random;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What a parameter is for. Shapes: V vocabulary, d embedding, E experts, F hidden, b branches (2 with a gate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// `(V, d)`, also the head of tied models.
    TokenEmbedding,
    /// `(context, d)`.
    PositionEmbedding,
    /// `(d)`.
    AttentionNorm,
    /// `(d)`.
    AttentionNormBias,
    /// `((H + 2K) * D, d)`.
    Qkv,
    /// `((H + 2K) * D)`.
    QkvBias,
    /// `(D)`, or `(H * D)` over all heads.
    QueryNorm,
    /// `(D)`, or `(K * D)` over all heads.
    KeyNorm,
    /// `(d, H * D)`.
    AttentionOutput,
    /// `(d)`.
    AttentionOutputBias,
    /// `(d)`.
    FfnNorm,
    /// `(d)`.
    FfnNormBias,
    /// `(b * F, d)`, gates first.
    Up,
    /// `(b * F)`.
    UpBias,
    /// `(d, F)`.
    Down,
    /// `(d)`.
    DownBias,
    /// `(E, d)`.
    Router,
    /// `(E, d)`.
    RouterNoise,
    /// `(E, b * F, d)`, gates first.
    ExpertsUp,
    /// `(E, b * F)`.
    ExpertsUpBias,
    /// `(E, d, F)`.
    ExpertsDown,
    /// `(E, d)`.
    ExpertsDownBias,
    /// `(b * F, d)`, gates first.
    SharedUp,
    /// `(d, F)`.
    SharedDown,
    /// `(d)`.
    OutputNorm,
    /// `(d)`.
    OutputNormBias,
    /// `(V, d)`.
    Output,
    /// `(r, in)`, or `(E, r, in)` of experts: the first matrix of an adapter.
    AdapterA,
    /// `(out, r)`, or `(E, out, r)` of experts: the second.
    AdapterB,
    /// `(out)`: the lengths of rows that an adapter of DoRA learns.
    AdapterMagnitude,
}

impl Role {
    /// Whether this is the weight of a norm, which begins as 1.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Self::AttentionNorm | Self::FfnNorm | Self::OutputNorm | Self::QueryNorm | Self::KeyNorm
        )
    }

    /// Whether this is added and not multiplied.
    pub fn is_bias(self) -> bool {
        matches!(
            self,
            Self::AttentionNormBias
                | Self::QkvBias
                | Self::AttentionOutputBias
                | Self::FfnNormBias
                | Self::UpBias
                | Self::DownBias
                | Self::ExpertsUpBias
                | Self::ExpertsDownBias
                | Self::OutputNormBias
        )
    }

    /// Whether this chooses experts.
    pub fn is_router(self) -> bool {
        matches!(self, Self::Router | Self::RouterNoise)
    }

    /// Whether this is of an adapter and not of the model itself.
    pub fn is_adapter(self) -> bool {
        matches!(self, Self::AdapterA | Self::AdapterB | Self::AdapterMagnitude)
    }

    /// Whether this is one of the large matrices, which may stay in 16 bits where they are not trained.
    pub(super) fn is_matrix(self) -> bool {
        let is_small = self.is_norm() || self.is_bias() || self.is_router() || self.is_adapter();
        !is_small && self != Self::PositionEmbedding
    }

    fn is_embedding(self) -> bool {
        matches!(self, Self::TokenEmbedding | Self::PositionEmbedding)
    }

    fn is_norm_bias(self) -> bool {
        matches!(self, Self::AttentionNormBias | Self::FfnNormBias | Self::OutputNormBias)
    }
}

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

/// A tensor of the architecture's own code, as a part of a parameter.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its name in a checkpoint.
    pub name: String,
    /// Begin and length along each axis of the parameter.
    pub ranges: Vec<(usize, usize)>,
    /// The axes of the parameter in the order that they have outside.
    pub order: Vec<usize>,
    /// Its shape outside.
    pub shape: Vec<usize>,
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

impl Piece {
    /// The whole of a parameter of `shape`.
    pub fn whole(name: impl Into<String>, shape: &[usize]) -> Self {
        let ranges = shape.iter().map(|&length| (0, length)).collect();
        Self { name: name.into(), ranges, order: (0..shape.len()).collect(), shape: shape.to_vec() }
    }

    /// Only `length` from `start` along `axis`.
    pub fn part(mut self, axis: usize, start: usize, length: usize) -> Self {
        self.ranges[axis] = (start, length);
        self.shape[axis] = length;
        self
    }

    /// Only expert `index`, without the axis of experts.
    pub fn expert(mut self, index: usize) -> Self {
        self.ranges[0] = (index, 1);
        self.shape.remove(0);
        self
    }

    /// With the last two axes exchanged outside.
    pub fn transposed(mut self) -> Self {
        let (last, outside) = (self.order.len() - 1, self.shape.len() - 1);
        self.order.swap(last - 1, last);
        self.shape.swap(outside - 1, outside);
        self
    }

    /// With the axes in another order outside.
    pub fn ordered(mut self, order: &[usize]) -> Self {
        self.shape = order.iter().map(|&axis| self.ranges[axis].1).collect();
        self.order = order.to_vec();
        self
    }

    /// With another shape of the same numbers outside.
    pub fn shaped(mut self, shape: &[usize]) -> Self {
        self.shape = shape.to_vec();
        self
    }

    /// Calls `visit` with the place outside and the place inside a parameter of `shape` for each number, in the order
    /// of the outside.
    fn walk(&self, shape: &[usize], mut visit: impl FnMut(usize, usize)) {
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let ranges: Vec<(usize, usize)> = self.order.iter().map(|&axis| self.ranges[axis]).collect();
        let strides: Vec<usize> = self.order.iter().map(|&axis| stride(axis)).collect();
        let last = shape.len() - 1;
        let rows: usize = ranges[..last].iter().map(|range| range.1).product();
        let (start, width) = ranges[last];
        for row in 0..rows {
            let (mut rest, mut offset) = (row, 0);
            for axis in (0..last).rev() {
                offset += (ranges[axis].0 + rest % ranges[axis].1) * strides[axis];
                rest /= ranges[axis].1;
            }
            for i in 0..width {
                visit(row * width + i, offset + (start + i) * strides[last]);
            }
        }
    }

    /// This piece of a parameter with `values` and `shape`.
    pub fn take<T: Copy>(&self, values: &[T], shape: &[usize]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.shape.iter().product());
        self.walk(shape, |_, inside| out.push(values[inside]));
        out
    }

    /// Writes this piece into a parameter.
    ///
    /// # Errors
    /// It has another shape outside than expected.
    pub fn put(&self, piece: (&[f32], &[usize]), values: &mut [f32], shape: &[usize]) -> Result<()> {
        if piece.1 != self.shape {
            let message =
                format!("tensor {}: expected shape {:?}, found {:?}", self.name, self.shape, piece.1);
            return Err(Error::request(message));
        }
        self.walk(shape, |outside, inside| values[inside] = piece.0[outside]);
        Ok(())
    }
}
