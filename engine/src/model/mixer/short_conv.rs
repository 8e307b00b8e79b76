//! A short convolution between two gates, without a state beyond its last inputs (LFM2).

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::keys::Keys;
use super::super::kinds::{Half, Kind, Pass};
use super::super::limit;
use super::super::matrix::{Linear, Matrix};
use super::super::mixer;
use super::super::observe::Observe;
use super::super::state::Memory;
use super::super::step::{Factor, Span};
use super::convolution::Convolution;
use crate::error::Result;

/// Sizes of a gated short convolution.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Channels, as wide as the residual stream.
    pub width: usize,
    /// Inputs of a convolution.
    pub taps: usize,
}

impl Shape {
    /// What the keys say of all layers of this kind.
    pub(in crate::model) fn read(keys: &Keys<'_>) -> Result<mixer::Shape> {
        let width = keys.require("embedding_length", limit::WIDTH)?;
        Ok(mixer::Shape::ShortConv(Self { width, taps: keys.require("shortconv.l_cache", limit::TAPS)? }))
    }

    /// A part of a joined row: the gate before the convolution, the one behind it, its input.
    fn part(&self, number: usize) -> Span {
        Span::one(number * self.width, self.width)
    }
}

/// A gated short convolution with its tensors.
pub struct ShortConv {
    shape: Shape,
    input: Linear, // to both gates and the convolution's input
    conv: Convolution,
    output: Linear, // back to the residual stream
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    joined: B::Buffer, // (rows, 3 * width)
    out: B::Buffer,    // (rows, width)
}

impl Kind for ShortConv {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        Ok(Self {
            input: layer.linear("shortconv.in_proj", 3 * shape.width, shape.width)?,
            conv: Convolution::bind("shortconv.conv", (shape.taps, shape.width), layer)?,
            output: layer.linear("shortconv.out_proj", shape.width, shape.width)?,
            shape: shape.clone(),
        })
    }

    fn memory(shape: &Shape) -> Memory {
        Memory::State((shape.taps - 1) * shape.width)
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        Scratch { joined: backend.buffer(0), out: backend.buffer(0) }
    }

    fn scratch_columns(&self) -> usize {
        4 * self.shape.width
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
        pass.resize(joined, 3 * shape.width);
        pass.resize(out, shape.width);
        pass.linear(&self.input, half.normed, joined, 0);
        let whole = Span::one(0, shape.width);
        pass.backend.copy_span(joined, shape.part(2), out, whole);
        pass.backend.multiply_span(Factor::Itself, joined, shape.part(0), out, whole);
        pass.backend.convolve(&self.conv.step(half.layer, pass.rows, 0, None), out, pass.states);
        pass.backend.multiply_span(Factor::Itself, joined, shape.part(1), out, whole);
        pass.linear(&self.output, out, half.added, 0);
        Ok(())
    }
}
