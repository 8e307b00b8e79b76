//! Several residual streams (Xie et al. 2026, "mHC"): a half of a layer reads a mixture of them and adds to each; weights
//! that the streams themselves choose say how much. Sizes, tensors and scratch; the arithmetic is the backends'.

use super::backend::Backend;
use super::binder::{Binder, LayerBinder};
use super::keys::Keys;
use super::kinds::Pass;
use super::limit;
use super::matrix::{Linear, Norm, NormWeights};
use super::observe::Observe;
use super::step::Span;
use crate::cuda::Vector;
use crate::error::Result;

/// Residual streams of a model, side by side in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streams {
    /// How many.
    pub count: usize,
    /// How often rows and columns of what mixes streams are divided by their sums.
    pub iterations: usize,
    /// Added to weights and sums.
    pub epsilon: f32,
}

impl Streams {
    /// Most streams of a model.
    pub(super) const MOST: usize = 8;

    /// What the keys say.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let count = keys.require("hyper_connection.count", Self::MOST)?;
        let width = keys.require("embedding_length", limit::WIDTH)?;
        let stated = keys.number("embedding_length_out", Self::MOST * limit::WIDTH)?;
        if let Some(stated) = stated.filter(|stated| *stated != count * width) {
            let expected = format!("{}, {count} streams of {width}", count * width);
            return Err(keys.wrong("embedding_length_out", expected, stated));
        }
        let epsilon = keys.float("hyper_connection.epsilon")?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&epsilon) {
            return Err(keys.wrong("hyper_connection.epsilon", "between 0 and 1", epsilon));
        }
        let iterations = keys.require("hyper_connection.sinkhorn_iterations", 1 << 12)?;
        Ok(Self { count, iterations, epsilon })
    }

    /// Numbers that say how a half reads streams and adds to them: a weight of each for the input, one for the output,
    /// and one from each to each.
    pub(super) fn weights(self) -> usize {
        self.count * (self.count + 2)
    }
}

/// What chooses the weights of a half.
pub struct Mixing {
    pub(super) linear: Linear, // from all streams
    /// Added, one per weight.
    pub(super) base: Vector,
    /// Factors of the weights for the input, of those for the output, and of those between streams.
    pub(super) scale: Vector,
}

impl Mixing {
    /// Of a half of a layer.
    pub(super) fn bind(name: &str, streams: Streams, layer: &LayerBinder<'_>) -> Result<Self> {
        let weights = streams.weights();
        Ok(Self {
            linear: layer.linear(&format!("{name}_fn"), weights, streams.count * layer.width())?,
            base: layer.vector(&format!("{name}_base.weight"), &[weights])?,
            scale: layer.vector(&format!("{name}_scale.weight"), &[3])?,
        })
    }
}

/// What all halves have alike, and what makes one stream of several at the end.
pub struct Ends {
    pub(super) streams: Streams,
    pub(super) norm: NormWeights, // of all streams as one row
    pub(super) output: Mixing,
}

impl Ends {
    pub(super) fn bind(streams: Streams, kind: Norm, width: usize, binder: &Binder<'_>) -> Result<Self> {
        let all = streams.count * width;
        let output = Mixing {
            linear: binder.linear("output_hc_fn", streams.count, all)?,
            base: binder.vector("output_hc_base.weight", &[streams.count])?,
            scale: binder.vector("output_hc_scale.weight", &[1])?,
        };
        Ok(Self { streams, norm: NormWeights { kind, weight: vec![1.0; all].into(), bias: None }, output })
    }
}

/// Rows between the steps; empty where there is one stream.
pub(super) struct Scratch<B: Backend> {
    pub(super) input: B::Buffer, // what a half reads, before its norm (rows, embedding_length)
    weights: B::Buffer,          // of the half that is computed (rows, weights)
    normed: B::Buffer,           // all streams (rows, count * embedding_length)
    selected: B::Buffer,         // all streams of the rows that want logits
}

/// Columns of scratch per row: the streams beyond the first, the same normed and selected, and a half's input.
pub(super) fn columns(streams: Option<Streams>, width: usize) -> usize {
    streams.map_or(0, |streams| 3 * streams.count * width + streams.weights())
}

impl<B: Backend> Scratch<B> {
    pub(super) fn new(backend: &B) -> Self {
        let buffer = || backend.buffer(0);
        Self { input: buffer(), weights: buffer(), normed: buffer(), selected: buffer() }
    }

    /// All streams begin with what is embedded.
    pub(super) fn begin<O: Observe>(
        &mut self,
        pass: &Pass<'_, B, O>,
        (streams, width): (Streams, usize),
        x: &mut B::Buffer,
    ) {
        std::mem::swap(&mut self.input, x);
        pass.resize(x, streams.count * width);
        let same = Span { at: 0, count: streams.count, width, stride: 0 };
        pass.backend.copy_span(&self.input, same, x, Span::pieces(0, streams.count, width));
    }

    /// Mixes a half's input.
    pub(super) fn open<O: Observe>(
        &mut self,
        pass: &mut Pass<'_, B, O>,
        (ends, mixing): (&Ends, &Mixing),
        x: &B::Buffer,
    ) {
        let Self { input, weights, normed, .. } = self;
        pass.backend.norm(&ends.norm, x, normed);
        pass.resize(weights, mixing.linear.matrix.rows);
        pass.linear(&mixing.linear, normed, weights, 0);
        pass.backend.open_streams((ends.streams, mixing), weights, x, input);
    }

    /// Mixes the streams, and adds a half's output to each.
    pub(super) fn close<O: Observe>(
        &self,
        pass: &Pass<'_, B, O>,
        streams: Streams,
        added: &B::Buffer,
        x: &mut B::Buffer,
    ) {
        pass.backend.close_streams(streams, &self.weights, added, x);
    }

    /// Makes one stream of all in the rows that want logits.
    pub(super) fn end<O: Observe>(
        &mut self,
        pass: &mut Pass<'_, B, O>,
        ends: &Ends,
        x: &B::Buffer,
        out: &mut B::Buffer,
    ) {
        let Self { weights, normed, selected, .. } = self;
        pass.backend.select(pass.rows, x, selected);
        pass.backend.norm(&ends.norm, selected, normed);
        let linear = &ends.output.linear;
        pass.resize(weights, linear.matrix.rows);
        pass.linear(linear, normed, weights, 0);
        pass.backend.open_streams((ends.streams, &ends.output), weights, selected, out);
    }
}
