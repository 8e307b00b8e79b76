//! Gated delta net (Yang et al. 2024): a state per value head forgets, corrects itself by what is new, and is read; short
//! convolutions before it, a gated norm behind it (Qwen3-Next, Qwen 3.5).

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::keys::Keys;
use super::super::kinds::{Half, Kind, Pass};
use super::super::matrix::{Linear, Matrix, Norm, NormWeights};
use super::super::mixer;
use super::super::observe::Observe;
use super::super::state::Memory;
use super::super::step::{ConvStep, Factor, KeyHeads, ScanStep, Span, Update, scan_state_len};
use super::convolution::Convolution;
use super::sizes::Sizes;
use crate::cuda::Vector;
use crate::error::Result;
use crate::ops::Activation;

/// Added to the squared length of a query or key, as Qwen's original code has it.
const LENGTH_EPSILON: f32 = 1e-6;

/// Sizes of a gated delta net.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Query and key heads.
    pub key_count: usize,
    /// Value heads, a multiple.
    pub value_count: usize,
    /// Width of a query or key.
    pub key_length: usize,
    /// Width of a value.
    pub value_length: usize,
    /// Inputs of a convolution.
    pub taps: usize,
    /// Which key head a value head has.
    pub key_heads: KeyHeads,
}

impl Shape {
    /// What the keys say of all layers of this kind.
    pub(in crate::model) fn read(keys: &Keys<'_>, key_heads: KeyHeads) -> Result<mixer::Shape> {
        let Sizes { heads, head_length, groups, state_length, taps } = Sizes::read(keys)?;
        Ok(mixer::Shape::DeltaNet(Self {
            key_count: groups,
            value_count: heads,
            key_length: state_length,
            value_length: head_length,
            taps,
            key_heads,
        }))
    }

    fn queries(&self) -> Span {
        Span::pieces(0, self.key_count, self.key_length)
    }

    fn keys(&self) -> Span {
        Span::pieces(self.queries().end(), self.key_count, self.key_length)
    }

    fn values(&self) -> Span {
        Span::pieces(self.keys().end(), self.value_count, self.value_length)
    }

    /// Queries, keys and values: what the convolution passes over.
    fn channels(&self) -> usize {
        self.values().end()
    }

    fn gates(&self) -> Span {
        Span::pieces(self.channels(), self.value_count, self.value_length)
    }

    /// Columns of the strengths, before which everything else stands.
    fn strengths(&self) -> usize {
        self.gates().end()
    }

    fn steps(&self) -> usize {
        self.strengths() + self.value_count
    }

    /// Columns of a joined row.
    fn joined(&self) -> usize {
        self.steps() + self.value_count
    }

    /// Columns of the results of all heads.
    fn inner(&self) -> usize {
        self.value_count * self.value_length
    }

    fn conv_state(&self) -> usize {
        (self.taps - 1) * self.channels()
    }
}

/// Where the parts of a tensor that holds several go in a joined row.
type Moves = Vec<(Span, Span)>;

/// A gated delta net with its tensors.
pub struct DeltaNet {
    shape: Shape,
    projections: Vec<(Linear, usize)>, // with the column of the joined row where each starts
    grouped: Vec<(Linear, Moves)>,     // those that have their rows by key head
    conv: Convolution,
    step_bias: Vector,   // (value_count)
    rate: Vector,        // (value_count), below 0
    q_norm: NormWeights, // to the length of a direction, and by the width of a key
    k_norm: NormWeights, // to the length of a direction
    norm: NormWeights,   // on each head's result (value_length)
    output: Linear,      // back to the residual stream
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    joined: B::Buffer,  // queries, keys, values, gates, strengths and steps (rows, joined)
    grouped: B::Buffer, // the same by key head, where a file has them so
    out: B::Buffer,     // results of the heads (rows, inner)
}

/// `x / sqrt(sum of squares + epsilon) * factor` as a norm.
fn direction(width: usize, factor: f32) -> NormWeights {
    let kind = Norm::Rms { epsilon: LENGTH_EPSILON / width as f32 };
    let weight = vec![factor / (width as f32).sqrt(); width];
    NormWeights { kind, weight: weight.into(), bias: None }
}

impl DeltaNet {
    /// Tensors whose rows stand by key head: what each has of `parts` (columns of the joined row, rows per key head).
    fn moves(shape: &Shape, parts: &[(usize, usize)]) -> (usize, Moves) {
        let stride: usize = parts.iter().map(|(_, width)| width).sum();
        let (mut at, mut moves) = (0, vec![]);
        for &(to, width) in parts {
            let from = Span { at, count: shape.key_count, width, stride };
            moves.push((from, Span::pieces(to, shape.key_count, width)));
            at += width;
        }
        (shape.key_count * stride, moves)
    }
}

impl Kind for DeltaNet {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let (width, channels, heads) = (layer.width(), shape.channels(), shape.value_count);
        let (mut projections, mut grouped) = (vec![], vec![]);
        let mut in_groups = |name: &str, parts: &[(usize, usize)]| {
            let (rows, moves) = Self::moves(shape, parts);
            grouped.push((layer.linear(name, rows, width)?, moves));
            Ok::<_, crate::Error>(())
        };
        let share = heads / shape.key_count;
        if layer.has("ssm_in.weight") {
            let [queries, keys, values, gates] =
                [shape.queries(), shape.keys(), shape.values(), shape.gates()];
            let values_of = |span: Span| (span.at, share * span.width);
            in_groups(
                "ssm_in",
                &[(queries.at, queries.width), (keys.at, keys.width), values_of(values), values_of(gates)],
            )?;
        } else {
            projections.push((layer.linear("attn_qkv", channels, width)?, 0));
            projections.push((layer.linear("attn_gate", shape.inner(), width)?, channels));
        }
        if layer.has("ssm_ba.weight") {
            in_groups("ssm_ba", &[(shape.strengths(), share), (shape.steps(), share)])?;
        } else {
            projections.push((layer.linear("ssm_beta", heads, width)?, shape.strengths()));
            projections.push((layer.linear("ssm_alpha", heads, width)?, shape.steps()));
        }
        Ok(Self {
            projections,
            grouped,
            conv: Convolution::bind("ssm_conv1d", (shape.taps, channels), layer)?,
            step_bias: layer.vector("ssm_dt.bias", &[heads])?,
            rate: layer.vector("ssm_a", &[heads])?,
            q_norm: direction(shape.key_length, 1.0 / (shape.key_length as f32).sqrt()),
            k_norm: direction(shape.key_length, 1.0),
            norm: layer.norm("ssm_norm", shape.value_length)?,
            output: layer.linear("ssm_out", width, shape.inner())?,
            shape: shape.clone(),
        })
    }

    fn memory(shape: &Shape) -> Memory {
        let matrices = scan_state_len(shape.value_count, shape.key_length, shape.value_length);
        Memory::State(shape.conv_state() + matrices)
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        Scratch { joined: backend.buffer(0), grouped: backend.buffer(0), out: backend.buffer(0) }
    }

    fn scratch_columns(&self) -> usize {
        let grouped = self.grouped.iter().map(|(linear, _)| linear.matrix.rows).max().unwrap_or(0);
        self.shape.joined() + grouped + self.shape.inner()
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let before = self.projections.iter().map(|(linear, _)| linear);
        let before = before.chain(self.grouped.iter().map(|(linear, _)| linear));
        before.chain([&self.output]).map(|linear| &linear.matrix).collect()
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Scratch { joined, grouped, out } = scratch;
        let shape = &self.shape;
        pass.resize(joined, shape.joined());
        for (linear, at) in &self.projections {
            pass.linear(linear, half.normed, joined, *at);
        }
        for (linear, moves) in &self.grouped {
            pass.resize(grouped, linear.matrix.rows);
            pass.linear(linear, half.normed, grouped, 0);
            for (from, to) in moves {
                pass.backend.copy_span(grouped, *from, joined, *to);
            }
        }
        let conv: ConvStep<'_> = self.conv.step(half.layer, pass.rows, 0, Some(Activation::Silu));
        pass.backend.convolve(&conv, joined, pass.states);
        pass.backend.norm_span(&self.q_norm, joined, shape.queries());
        pass.backend.norm_span(&self.k_norm, joined, shape.keys());
        let scan = ScanStep {
            layer: half.layer,
            rows: pass.rows,
            state_at: shape.conv_state(),
            queries: shape.queries(),
            keys: shape.keys(),
            values: shape.values(),
            key_heads: shape.key_heads,
            steps: shape.steps(),
            step_bias: &self.step_bias,
            rate: &self.rate,
            update: Update::Delta { strengths: shape.strengths() },
        };
        pass.backend.scan(&scan, joined, pass.states, out);
        let results = Span::pieces(0, shape.value_count, shape.value_length);
        pass.backend.norm_span(&self.norm, out, results);
        pass.backend.multiply_span(Factor::Silu, joined, shape.gates(), out, results);
        pass.linear(&self.output, out, half.added, 0);
        Ok(())
    }
}
