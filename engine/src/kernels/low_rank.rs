//! What an adapter adds to a matrix: `y += B (A x)` in f32, A and B of a few rows between the matrix's inputs and outputs
//! (LoRA, Hu et al. 2021). The bits depend on the instruction set only, not on who computes which outputs.

use crate::simd::{Isa, LANES, Lanes, Work};
use std::ops::Range;

/// Rows of `A` whose products are kept at a time.
const RANKS: usize = 32;

/// A sum of adapters on one matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct LowRank {
    inputs: usize,
    outputs: usize,
    a: Vec<f32>, // (rank, inputs)
    b: Vec<f32>, // (rank, outputs), times the scale
}

impl LowRank {
    /// Of a matrix with so many inputs and outputs: `a` is `(rank, inputs)`, `b` `(outputs, rank)`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub(crate) fn new((inputs, outputs): (usize, usize), a: &[f32], b: &[f32], scale: f32) -> Self {
        let rank = a.len() / inputs.max(1);
        assert_eq!((a.len(), b.len()), (rank * inputs, rank * outputs));
        let mut turned = vec![0.0; b.len()];
        for (output, row) in b.chunks_exact(rank.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(k, value)| turned[k * outputs + output] = scale * value);
        }
        Self { inputs, outputs, a: a.to_vec(), b: turned }
    }

    /// Both together.
    ///
    /// # Panics
    /// When they are of other matrices.
    #[must_use]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        assert_eq!((self.inputs, self.outputs), (other.inputs, other.outputs));
        self.a.extend_from_slice(&other.a);
        self.b.extend_from_slice(&other.b);
        self
    }

    /// Outputs of the matrix.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs of the matrix.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows of `A`.
    pub(crate) fn rank(&self) -> usize {
        self.a.len() / self.inputs.max(1)
    }

    /// `(rank, inputs)`.
    pub(crate) fn a(&self) -> &[f32] {
        &self.a
    }

    /// `(rank, outputs)`, with the scale.
    pub(crate) fn b(&self) -> &[f32] {
        &self.b
    }

    /// Adds the outputs of `range` for one input row to `out`, which holds just them.
    ///
    /// # Panics
    /// When lengths do not fit, or the machine lacks the instruction set.
    pub(crate) fn add(&self, isa: Isa, x: &[f32], range: Range<usize>, out: &mut [f32]) {
        assert_eq!((x.len(), out.len()), (self.inputs, range.len()));
        assert!(range.end <= self.outputs);
        isa.run(Add { of: self, x, first: range.start, out });
    }
}

struct Add<'a> {
    of: &'a LowRank,
    x: &'a [f32],
    first: usize,
    out: &'a mut [f32],
}

impl Work for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { of: LowRank { inputs, outputs, a, b }, x, first, out } = self;
        let mut products = [0f32; RANKS];
        for (a, b) in a.chunks(RANKS * inputs).zip(b.chunks(RANKS * outputs)) {
            let rank = a.len() / inputs;
            for k in 0..rank {
                products[k] = dot::<L>(&a[k * inputs..(k + 1) * inputs], x);
            }
            let mut at = 0;
            while at < out.len() {
                let count = (out.len() - at).min(LANES);
                let mut sum = L::load(&padded(&out[at..at + count]));
                for k in 0..rank {
                    let row = &b[k * outputs + first + at..][..count];
                    sum = L::splat(products[k]).multiply_add(L::load(&padded(row)), sum);
                }
                out[at..at + count].copy_from_slice(&sum.store()[..count]);
                at += count;
            }
        }
    }
}

/// Up to [`LANES`] values, zeros behind them: whole and broken groups are computed alike.
#[inline(always)]
fn padded(values: &[f32]) -> [f32; LANES] {
    match values.first_chunk::<LANES>() {
        Some(whole) => *whole,
        None => {
            let mut all = [0.0; LANES];
            all[..values.len()].copy_from_slice(values);
            all
        }
    }
}

#[inline(always)]
fn dot<L: Lanes>(a: &[f32], x: &[f32]) -> f32 {
    let mut sums = [L::splat(0.0); 4];
    let mut at = 0;
    while at < a.len() {
        let end = (at + LANES).min(a.len());
        let sum = &mut sums[at / LANES % 4];
        *sum = L::load(&padded(&a[at..end])).multiply_add(L::load(&padded(&x[at..end])), *sum);
        at = end;
    }
    let lanes = ((sums[0] + sums[1]) + (sums[2] + sums[3])).store();
    let mut total = 0.0;
    for lane in lanes {
        total += lane;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_f64_and_the_same_in_any_pieces() {
        for (inputs, outputs, rank) in [(5, 3, 1), (64, 40, 4), (100, 70, 33), (33, 16, 64)] {
            let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
            let a: Vec<f32> = (0..rank * inputs).map(number).collect();
            let b: Vec<f32> = (0..rank * outputs).map(|i| number(i + 7)).collect();
            let x: Vec<f32> = (0..inputs).map(|i| number(i + 3)).collect();
            let low = LowRank::new((inputs, outputs), &a, &b, 0.5);
            for isa in Isa::available() {
                let mut whole = vec![1.0; outputs];
                low.add(isa, &x, 0..outputs, &mut whole);
                for (o, found) in whole.iter().enumerate() {
                    let product = |k: usize| -> f64 {
                        (0..inputs).map(|i| f64::from(a[k * inputs + i]) * f64::from(x[i])).sum()
                    };
                    let expected: f64 =
                        (0..rank).map(|k| 0.5 * f64::from(b[o * rank + k]) * product(k)).sum();
                    assert!((f64::from(*found) - 1.0 - expected).abs() < 1e-4, "{isa} {found} {expected}");
                }
                let mut pieces = vec![1.0; outputs];
                for start in (0..outputs).step_by(7) {
                    let range = start..outputs.min(start + 7);
                    low.add(isa, &x, range.clone(), &mut pieces[range]);
                }
                assert_eq!(whole, pieces, "{isa}");
            }
        }
    }

    #[test]
    fn two_adapters_are_one_of_both_ranks() {
        let one = LowRank::new((2, 2), &[1.0, 2.0], &[3.0, 4.0], 1.0);
        let other = LowRank::new((2, 2), &[0.0, 1.0, 1.0, 0.0], &[1.0, 0.0, 0.0, 1.0], 2.0);
        let mut out = [0.0; 2];
        one.and(&other).add(Isa::Portable, &[1.0, 10.0], 0..2, &mut out);
        assert_eq!(out, [21.0 * 3.0 + 2.0 * 10.0, 21.0 * 4.0 + 2.0 * 1.0]);
    }
}
