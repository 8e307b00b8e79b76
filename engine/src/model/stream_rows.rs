//! Rows of several residual streams on their way through the halves of layers: what is read of them, what is added, and the
//! one that is left at the end. The arithmetic is the backends'.

use super::backend::Backend;
use super::kinds::Pass;
use super::observe::Observe;
use super::step::Span;
use super::streams::{Ends, Mixing, Streams};

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
