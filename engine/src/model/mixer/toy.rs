//! A recurrence for tests alone, which shows what a further kind of mixer takes: this file, two lines in `mod.rs`, and
//! the architecture's line.
//!
//! Each number of a row is halved and added to what its sequence remembers: `state = state / 2 + input`.

use super::super::backend::Backend;
use super::super::bind::LayerBinder;
use super::super::kinds::{Half, Kind, Pass};
use super::super::kv_cache::Memory;
use super::super::observe::Observe;
use super::super::step::Span;
use super::super::weights::{Linear, Matrix};
use super::super::{Architecture, mixer};
use crate::error::Result;

/// Layers of both kinds in turns.
pub(in crate::model) static ARCHITECTURE: Architecture = Architecture {
    name: "toy",
    mixer: |keys, architecture, layer| match layer % 2 {
        0 => Ok(mixer::Shape::Toy(Shape { width: keys.require("embedding_length", 1 << 10)? })),
        _ => mixer::grouped::read(keys, architecture, layer),
    },
    ..Architecture::LLAMA
};

/// Width of the state.
#[derive(Clone, Debug)]
pub struct Shape {
    width: usize,
}

/// The recurrence with its output matrix.
pub struct Toy {
    shape: Shape,
    output: Linear,
}

impl Kind for Toy {
    type Shape = Shape;
    type Scratch<B: Backend> = B::Buffer;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        Ok(Self { shape: shape.clone(), output: layer.linear("toy_output", layer.width(), shape.width)? })
    }

    fn memory(shape: &Shape) -> Memory {
        Memory::State(shape.width)
    }

    fn scratch<B: Backend>(backend: &B) -> B::Buffer {
        backend.buffer(0)
    }

    fn scratch_columns(&self) -> usize {
        self.shape.width
    }

    fn matrices(&self) -> Vec<&Matrix> {
        vec![&self.output.matrix]
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        mixed: &mut B::Buffer,
    ) -> Result<()> {
        let whole = Span::one(0, self.shape.width);
        pass.resize(mixed, self.shape.width);
        pass.backend.copy_span(half.normed, whole, mixed, whole);
        pass.backend.recur(half.layer, pass.rows, mixed, pass.states, &|state, row| {
            for (state, value) in state.iter_mut().zip(row) {
                *state = *state / 2.0 + *value;
                *value = *state;
            }
        });
        pass.linear(&self.output, mixed, half.added, 0);
        Ok(())
    }
}
