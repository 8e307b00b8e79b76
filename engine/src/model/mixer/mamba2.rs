//! Mamba-2 (Dao & Gu 2024): a state per head decays and takes in values along keys that the input chooses; a convolution
//! before it, a gate and a norm over groups behind it (Nemotron-H, Granite 4).

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::keys::Keys;
use super::super::kinds::{Half, Kind, Pass};
use super::super::matrix::{Linear, Matrix, NormWeights};
use super::super::mixer;
use super::super::observe::Observe;
use super::super::state::Memory;
use super::super::step::{Factor, KeyHeads, ScanStep, Span, Update, scan_state_len};
use super::convolution::Convolution;
use super::sizes::Sizes;
use crate::cuda::Vector;
use crate::error::Result;
use crate::ops::Activation;

/// Sizes of a Mamba-2 mixer.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Heads.
    pub head_count: usize,
    /// Width of a head.
    pub head_length: usize,
    /// Groups of heads that share keys and queries, and of columns that are normed together.
    pub group_count: usize,
    /// Width of a key or query.
    pub state_length: usize,
    /// Inputs of a convolution.
    pub taps: usize,
}

impl Shape {
    /// What the keys say of all layers of this kind.
    pub(in crate::model) fn read(keys: &Keys<'_>) -> Result<mixer::Shape> {
        let Sizes { heads, head_length, groups, state_length, taps } = Sizes::read(keys)?;
        Ok(mixer::Shape::Mamba2(Self {
            head_count: heads,
            head_length,
            group_count: groups,
            state_length,
            taps,
        }))
    }

    fn inner(&self) -> usize {
        self.head_count * self.head_length
    }

    /// In a joined row, as the file has them: gates, values, keys, queries, steps.
    fn gates(&self) -> Span {
        Span::one(0, self.inner())
    }

    fn values(&self) -> Span {
        Span::pieces(self.gates().end(), self.head_count, self.head_length)
    }

    fn keys(&self) -> Span {
        Span::pieces(self.values().end(), self.group_count, self.state_length)
    }

    fn queries(&self) -> Span {
        Span::pieces(self.keys().end(), self.group_count, self.state_length)
    }

    fn steps(&self) -> usize {
        self.queries().end()
    }

    fn joined(&self) -> usize {
        self.steps() + self.head_count
    }

    /// Values, keys and queries: what the convolution passes over.
    fn channels(&self) -> usize {
        self.steps() - self.values().at
    }

    fn conv_state(&self) -> usize {
        (self.taps - 1) * self.channels()
    }
}

/// A Mamba-2 mixer with its tensors.
pub struct Mamba2 {
    shape: Shape,
    input: Linear, // to a joined row
    conv: Convolution,
    step_bias: Vector,       // (head_count)
    rate: Vector,            // (head_count), below 0
    skip: Vector,            // of values to the output (head_count)
    norms: Vec<NormWeights>, // one per group (inner / group_count)
    output: Linear,          // back to the residual stream
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    joined: B::Buffer, // gates, values, keys, queries and steps (rows, joined)
    out: B::Buffer,    // results of the heads (rows, inner)
}

impl Kind for Mamba2 {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let (width, heads) = (layer.width(), shape.head_count);
        let group = shape.inner() / shape.group_count;
        let norms = layer.vector("ssm_norm.weight", &[group, shape.group_count])?;
        Ok(Self {
            input: layer.linear("ssm_in", shape.joined(), width)?,
            conv: Convolution::bind("ssm_conv1d", (shape.taps, shape.channels()), layer)?,
            step_bias: layer.vector("ssm_dt.bias", &[heads])?,
            rate: layer.vector("ssm_a", &[1, heads])?,
            skip: layer.vector("ssm_d", &[1, heads])?,
            norms: norms.chunks_exact(group).map(|weight| layer.norm_with(weight.to_vec())).collect(),
            output: layer.linear("ssm_out", width, shape.inner())?,
            shape: shape.clone(),
        })
    }

    fn memory(shape: &Shape) -> Memory {
        let matrices = scan_state_len(shape.head_count, shape.state_length, shape.head_length);
        Memory::State(shape.conv_state() + matrices)
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        Scratch { joined: backend.buffer(0), out: backend.buffer(0) }
    }

    fn scratch_columns(&self) -> usize {
        self.shape.joined() + self.shape.inner()
    }

    fn matrices(&self) -> Vec<&Matrix> {
        vec![&self.input.matrix, &self.output.matrix]
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Scratch { joined, out } = scratch;
        let shape = &self.shape;
        pass.resize(joined, shape.joined());
        pass.linear(&self.input, half.normed, joined, 0);
        let conv = self.conv.step(half.layer, pass.rows, shape.values().at, Some(Activation::Silu));
        pass.backend.convolve(&conv, joined, pass.states);
        let scan = ScanStep {
            layer: half.layer,
            rows: pass.rows,
            state_at: shape.conv_state(),
            queries: shape.queries(),
            keys: shape.keys(),
            values: shape.values(),
            key_heads: KeyHeads::Neighbours,
            steps: shape.steps(),
            step_bias: &self.step_bias,
            rate: &self.rate,
            update: Update::Whole { skip: &self.skip },
        };
        pass.backend.scan(&scan, joined, pass.states, out);
        pass.backend.multiply_span(Factor::Silu, joined, shape.gates(), out, shape.gates());
        for (group, norm) in self.norms.iter().enumerate() {
            let width = norm.weight.len();
            pass.backend.norm_span(norm, out, Span::one(group * width, width));
        }
        pass.linear(&self.output, out, half.added, 0);
        Ok(())
    }
}
