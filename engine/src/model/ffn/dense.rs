//! One FFN that every token passes: up, activation, down, and a gate where the activation has one.

use super::super::backend::Backend;
use super::super::binder::LayerBinder;
use super::super::kinds::{Half, Kind, Pass};
use super::super::limit;
use super::super::matrix::{Linear, Matrix};
use super::super::observe::Observe;
use super::super::{Architecture, Keys};
use crate::error::Result;
use crate::ops::Activation;

/// Sizes of an FFN.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Hidden width.
    pub length: usize,
    /// Between up and down.
    pub activation: Activation,
}

impl Shape {
    pub(super) fn read(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Self> {
        let length = keys.per_layer("feed_forward_length", layer, limit::WIDTH)?;
        let length = length.filter(|length| *length > 0);
        let length = length.ok_or_else(|| keys.wrong("feed_forward_length", "at least 1", "nothing"))?;
        Ok(Self { length, activation: architecture.activation })
    }
}

/// An FFN with its tensors.
pub struct Dense {
    shape: Shape,
    gate: Option<Linear>, // through the activation
    up: Linear,           // to the hidden width
    down: Linear,         // back
}

/// Rows between the steps.
pub struct Scratch<B: Backend> {
    gate: B::Buffer, // (rows, hidden width)
    up: B::Buffer,   // (rows, hidden width)
}

impl Dense {
    /// The tensors `ffn_gate`, `ffn_up` and `ffn_down` with `suffix`.
    pub(super) fn bind_as(suffix: &str, shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        let name = |part: &str| format!("ffn_{part}{suffix}");
        let (length, width) = (shape.length, layer.width());
        Ok(Self {
            shape: shape.clone(),
            gate: layer.optional_linear(&name("gate"), length, width)?,
            up: layer.linear(&name("up"), length, width)?,
            down: layer.linear(&name("down"), width, length)?,
        })
    }
}

impl Kind for Dense {
    type Shape = Shape;
    type Scratch<B: Backend> = Scratch<B>;

    fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
        Self::bind_as("", shape, layer)
    }

    fn scratch<B: Backend>(backend: &B) -> Scratch<B> {
        Scratch { gate: backend.buffer(0), up: backend.buffer(0) }
    }

    fn scratch_columns(&self) -> usize {
        2 * self.shape.length
    }

    fn matrices(&self) -> Vec<&Matrix> {
        self.gate.iter().chain([&self.up, &self.down]).map(|linear| &linear.matrix).collect()
    }

    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Scratch<B>,
    ) -> Result<()> {
        let Scratch { gate, up } = scratch;
        pass.resize(up, self.shape.length);
        pass.linear(&self.up, half.normed, up, 0);
        if let Some(linear) = &self.gate {
            pass.resize(gate, self.shape.length);
            pass.linear(linear, half.normed, gate, 0);
        }
        pass.backend.activate(self.shape.activation, self.gate.as_ref().map(|_| &*gate), up);
        pass.linear(&self.down, up, half.added, 0);
        Ok(())
    }
}
