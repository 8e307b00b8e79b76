//! What there is to compute: a matrix, inputs, and where each result goes.

use super::activations::Inputs;
use super::matrix::MatrixRef;
use crate::threads::SharedSlice;
use std::ops::Range;

/// Which input row goes to which output row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Row of the inputs.
    pub(crate) input: u32,
    /// Row of the output.
    pub(crate) output: u32,
}

/// Where results go: row-major, `stride` wide, the matrix' first output at column `at`.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    /// The whole buffer.
    pub(crate) values: SharedSlice<'a, f32>,
    /// Width of an output row.
    pub(crate) stride: usize,
    /// Column of the matrix' first row.
    pub(crate) at: usize,
}

impl<'a> Output<'a> {
    /// A buffer of rows `stride` wide that receives a matrix' outputs at column `at`.
    pub(crate) fn new(values: &'a mut [f32], stride: usize, at: usize) -> Self {
        Self { values: SharedSlice::new(values), stride, at }
    }

    /// The places of `rows` in output row `row`.
    ///
    /// # Safety
    /// No other task may hold the same places.
    #[inline(always)]
    pub(super) unsafe fn slice(&self, row: u32, rows: Range<usize>) -> &'a mut [f32] {
        let start = row as usize * self.stride + self.at + rows.start;
        // SAFETY: passed on to the caller.
        unsafe { self.values.slice(start, rows.len()) }
    }
}

/// A matmul: some rows of a matrix times picked input rows.
pub(crate) struct Job<'a> {
    /// The weights.
    pub(crate) matrix: MatrixRef<'a>,
    /// The activations; quantized ones where the format stores blocks.
    pub(crate) inputs: Inputs<'a>,
    /// Which inputs, and where each result row goes.
    pub(crate) picks: &'a [Pick],
    /// Where the results go.
    pub(crate) output: Output<'a>,
}

/// Computes some rows of a job's matrix.
///
/// # Safety
/// Needs the instructions that it is compiled for; the outputs of the rows must be this task's own.
pub(super) type RowsFn = unsafe fn(&Job<'_>, Range<usize>);
