//! What there is to compute: a matrix, inputs, and where each result goes.
//!
//! Tasks write into one buffer at the same time. What keeps their places apart is checked here, once per job: rows of
//! picks are different ones, and a matrix' outputs fit into a row.

use super::activations::Inputs;
use super::matrix::MatrixRef;
use crate::threads::SharedSlice;
use std::ops::{Deref, Range};

/// Which input row goes to which output row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Row of the inputs.
    pub(crate) input: u32,
    /// Row of the output.
    pub(crate) output: u32,
}

/// Picks with an output row each: tasks may have some of them each.
#[derive(Clone, Copy)]
pub(crate) struct Picks<'a>(&'a [Pick]);

impl<'a> Picks<'a> {
    /// # Panics
    /// When the rows of the output do not rise.
    pub(crate) fn new(picks: &'a [Pick]) -> Self {
        assert!(picks.is_sorted_by(|a, b| a.output < b.output), "an output row for each pick");
        Self(picks)
    }

    /// Some of them.
    pub(super) fn part(self, range: Range<usize>) -> Self {
        Self(&self.0[range])
    }
}

impl<'a> Deref for Picks<'a> {
    type Target = [Pick];

    #[inline(always)]
    fn deref(&self) -> &[Pick] {
        self.0
    }
}

/// A buffer that receives results: rows `stride` wide, of which a job's outputs begin at column `at`. Whoever has it has the
/// buffer alone.
pub(crate) struct Output<'a>(Places<'a>);

impl<'a> Output<'a> {
    /// A buffer of rows `stride` wide that receives outputs at column `at`.
    pub(crate) fn new(values: &'a mut [f32], stride: usize, at: usize) -> Self {
        Self(Places { values: SharedSlice::new(values), stride, at })
    }

    /// The same, for one job of several.
    pub(crate) fn again(&mut self) -> Output<'_> {
        Output(self.0)
    }

    /// The same for tasks that write up to so many columns.
    ///
    /// # Panics
    /// When a row has fewer, so that those of two rows would be the same place.
    pub(super) fn places(self, columns: usize) -> Places<'a> {
        assert!(self.0.at + columns <= self.0.stride, "outputs fit into their row");
        self.0
    }
}

/// A buffer as tasks have it, each of which writes its own places: different rows and columns are different places.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    values: SharedSlice<'a, f32>,
    stride: usize,
    at: usize,
}

impl<'a> Places<'a> {
    /// Some columns of a row.
    ///
    /// # Safety
    /// No other task may have them meanwhile, and the columns must be below what [`Output::places`] was given.
    #[inline(always)]
    pub(super) unsafe fn slice(&self, row: u32, columns: Range<usize>) -> &'a mut [f32] {
        let start = row as usize * self.stride + self.at + columns.start;
        // SAFETY: columns of a row do not reach into the next, so these are places that the caller alone has.
        unsafe { self.values.slice(start, columns.len()) }
    }
}

/// A matmul: some rows of a matrix times picked input rows.
pub(crate) struct Job<'a> {
    pub(super) matrix: MatrixRef<'a>,
    /// Quantized ones where the format stores blocks.
    pub(super) inputs: Inputs<'a>,
    /// Which inputs, and where each result row goes.
    pub(super) picks: Picks<'a>,
    pub(super) output: Places<'a>,
}

impl<'a> Job<'a> {
    /// # Panics
    /// When shapes do not fit.
    pub(crate) fn new(
        matrix: MatrixRef<'a>,
        inputs: Inputs<'a>,
        picks: Picks<'a>,
        output: Output<'a>,
    ) -> Self {
        Self::at(matrix, inputs, picks, output.places(matrix.rows))
    }

    /// A job whose places are known to have room for the matrix' rows.
    pub(super) fn at(
        matrix: MatrixRef<'a>,
        inputs: Inputs<'a>,
        picks: Picks<'a>,
        output: Places<'a>,
    ) -> Self {
        assert_eq!(matrix.bytes.len(), matrix.row_bytes() * matrix.rows);
        assert_eq!(inputs.width(), matrix.cols);
        Self { matrix, inputs, picks, output }
    }

    /// The same for some of its picks.
    pub(super) fn part(&self, picks: Range<usize>) -> Self {
        Self { picks: self.picks.part(picks), ..*self }
    }
}

/// Computes some rows of a job's matrix.
///
/// # Safety
/// Needs the instructions that it is compiled for; no other task may write the same rows of the same outputs meanwhile.
pub(super) type RowsFn = unsafe fn(&Job<'_>, Range<usize>);

#[cfg(test)]
mod tests {
    use super::*;

    fn picks<const N: usize>(outputs: [u32; N]) -> [Pick; N] {
        outputs.map(|output| Pick { input: 0, output })
    }

    #[test]
    fn picks_of_one_output_row_are_one() {
        assert_eq!(Picks::new(&picks([0, 1, 5])).part(1..3).len(), 2);
        for twins in [picks([0, 1, 1]), picks([2, 1, 3])] {
            assert!(std::panic::catch_unwind(|| Picks::new(&twins).len()).is_err(), "{twins:?}");
        }
    }

    #[test]
    fn outputs_that_reach_into_the_next_row_are_none() {
        let places = |columns: usize| {
            let mut values = [0.0; 24];
            // SAFETY: the only task; the columns are below what the places were asked for.
            unsafe { Output::new(&mut values, 8, 2).places(columns).slice(1, 0..columns)[0] = 1.0 };
            values.iter().position(|value| *value == 1.0)
        };
        assert_eq!(places(6), Some(10));
        assert!(std::panic::catch_unwind(|| places(7)).is_err());
    }
}
