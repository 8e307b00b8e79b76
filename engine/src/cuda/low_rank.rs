//! Starts the kernels that add what adapters say to the products of a matrix: `y += B (A x)`.
//!
//! `A x` is a product like any other; what is here multiplies it with `B`.

use super::arguments::{Argument, ChoicesAt};
use super::kernels::Kernels;
use super::launch::arguments;
use super::rows::Rows;
use super::written::What;

/// Outputs of a block.
const OUTPUTS: usize = 128;

impl Kernels {
    /// `out[.., at..at + outputs] += inner * b`, with `b` of `(rank, outputs)`.
    pub fn add_low_rank(&self, inner: &Rows, b: u64, outputs: usize, out: &mut Rows, at: usize) {
        assert!(at + outputs <= out.width() && out.rows() == inner.rows());
        let a = arguments![inner.address(), inner.width(), b, out.address(), out.width(), at, outputs];
        let what = What::other(&[inner.address(), out.address()], &[out.address()]);
        self.step("add_low_rank", (out.rows(), outputs.div_ceil(OUTPUTS)), 0, a, what);
        out.touch();
    }

    /// The same for the slots of experts that have an address; `b` are the addresses of each expert's three.
    pub fn add_low_rank_slots(
        &self,
        inner: &Rows,
        (b, which): (u64, usize),
        (choices, addresses): (ChoicesAt, u64),
        out: &mut Rows,
    ) {
        assert!(out.rows() == inner.rows() && out.rows() == choices.rows * choices.used);
        let a = arguments![
            inner.address(),
            inner.width(),
            b,
            which,
            choices.choices,
            addresses,
            out.address(),
            out.width()
        ];
        let what = What::other(&[inner.address(), out.address(), choices.choices], &[out.address()]);
        self.step("add_low_rank_slots", (out.rows(), out.width().div_ceil(OUTPUTS)), 0, a, what);
        out.touch();
    }
}
