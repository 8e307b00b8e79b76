//! A matrix of weights, and the ways in which its blocks may lie.
//!
//! Data only: `layout.rs` says which way an instruction set wants and packs, `kernel.rs` multiplies.

use crate::quant::Format;
use std::ops::Range;

/// Rows of a panel: one lane of a 512-bit register each.
pub(crate) const PANEL: usize = 16;

/// One way for the weights of a matrix to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row after row, as in the file.
    Rows,
    /// Sixteen rows side by side, for formats whose kernels want that.
    Panels,
}

/// A matrix. `bytes` holds exactly `rows * cols` weights.
#[derive(Clone, Copy)]
pub(crate) struct MatrixRef<'a> {
    /// How the weights are stored.
    pub(crate) format: &'static Format,
    /// Output width.
    pub(crate) rows: usize,
    /// Input width.
    pub(crate) cols: usize,
    /// How the rows lie.
    pub(crate) layout: Layout,
    /// The blocks.
    pub(crate) bytes: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// Bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols)
    }

    /// The rows of `range` as a matrix of their own.
    ///
    /// # Panics
    /// When they do not lie one after the other.
    pub(crate) fn slice_rows(&self, range: Range<usize>) -> MatrixRef<'a> {
        assert_eq!(self.layout, Layout::Rows);
        let bytes = &self.bytes[range.start * self.row_bytes()..range.end * self.row_bytes()];
        MatrixRef { rows: range.len(), bytes, ..*self }
    }

    /// One row as floats.
    pub(crate) fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        (self.format.dequantize)(self.slice_rows(row..row + 1).bytes, &mut out[..self.cols]);
    }
}
