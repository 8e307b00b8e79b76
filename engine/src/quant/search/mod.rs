//! The search for scales: what quantizing has in common for all formats that do not simply round.
//!
//! Everything minimises the squared error, weighted by importance where that is known. Candidates are judged for a
//! whole group, sixteen at a time, one per lane.

mod affine;
mod coder;
mod lattice;
mod length;
mod nearest;
mod scaled;
mod ternary;

pub(super) use affine::{affine_block, affine_group};
pub(super) use coder::{BlockCodes, Coder, Octets, Scalars, Settle};
pub(super) use lattice::{Lattice, Octet, Signs, lattice_block};
pub(super) use length::restore_length;
pub(super) use nearest::{Codes, Points};
pub(super) use scaled::{Codebook, Linear, power_of_two_group, scaled_block, scaled_group};
pub(super) use ternary::ternary_block;

use super::float;
use crate::simd::{LANES, Lanes};
use half::f16;

/// The weights of one block, made harmless.
pub(super) struct Prepared<const N: usize> {
    /// The weights divided by `unit`: the largest lies in [1, 2), or all are 0.
    x: [f32; N],
    /// Their importance, 1 on average.
    w: [f32; N],
    /// A power of two.
    unit: f32,
}

impl<const N: usize> Prepared<N> {
    #[inline(always)]
    pub(super) fn new<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let mut x: [f32; N] = float::finite(weights);
        let unit = power_of_two(float::largest_magnitude(&x));
        let inverse = 1.0 / unit;
        x.iter_mut().for_each(|x| *x *= inverse);
        Self { x, w: importance_of::<L, N>(importance), unit }
    }

    /// A scale as it is stored, and what that stands for in units of `x`.
    #[inline(always)]
    fn stored(&self, scale: f32) -> (f16, f32) {
        let stored = float::f16_from_f32(float::fit_f16(scale * self.unit));
        (stored, float::f16_to_f32(stored) / self.unit)
    }

    /// The weights as one group.
    #[inline(always)]
    fn group(&self) -> Group<'_, N> {
        Group { x: &self.x, w: &self.w }
    }

    /// Group `i` of `G` weights.
    #[inline(always)]
    fn part<const G: usize>(&self, i: usize) -> Group<'_, G> {
        Group { x: &self.x.as_chunks().0[i], w: &self.w.as_chunks().0[i] }
    }
}

/// The largest power of two that is not above a positive number, but never subnormal.
#[inline(always)]
fn power_of_two(value: f32) -> f32 {
    f32::from_bits((value.to_bits() & 0x7f80_0000).max(1 << 23))
}

/// Importance with mean 1; a thousandth of that at least, lest weights that matter little become arbitrary.
#[inline(always)]
fn importance_of<L: Lanes, const N: usize>(importance: Option<&[f32]>) -> [f32; N] {
    let mut known = [1.0; N];
    let Some(importance) = importance else { return known };
    let factors: [f32; N] = float::finite(importance);
    let inverse = 1.0 / power_of_two(float::largest_magnitude(&factors));
    for (known, factor) in known.iter_mut().zip(factors) {
        *known = if factor > 0.0 { factor * inverse } else { 0.0 };
    }
    let total = Group { x: &known, w: &known }.total::<L>(|known, _| known);
    let (scale, floor) = if total > 0.0 { (N as f32 / total, 0.001) } else { (0.0, 1.0) };
    known.iter_mut().for_each(|known| *known = *known * scale + floor);
    known
}

/// Weights that share a scale, and their importance. `N` is a multiple of the lanes.
#[derive(Clone, Copy)]
struct Group<'a, const N: usize> {
    x: &'a [f32; N],
    w: &'a [f32; N],
}

impl<const N: usize> Group<'_, N> {
    /// The sum of `f(x, w)` over all weights.
    #[inline(always)]
    fn total<L: Lanes>(&self, f: impl Fn(L, L) -> L) -> f32 {
        let mut total = L::splat(0.0);
        for (x, w) in self.x.as_chunks::<LANES>().0.iter().zip(self.w.as_chunks::<LANES>().0) {
            total = total + f(L::load(x), L::load(w));
        }
        total.sum()
    }

    /// The smallest and the largest weight.
    #[inline(always)]
    fn limits<L: Lanes>(&self) -> (f32, f32) {
        let (mut low, mut high) = (L::splat(f32::MAX), L::splat(f32::MIN));
        for x in self.x.as_chunks::<LANES>().0 {
            low = low.min(L::load(x));
            high = high.max(L::load(x));
        }
        (low.smallest(), -(L::splat(0.0) - high).smallest())
    }

    /// `f` of each weight, a whole number.
    #[inline(always)]
    fn codes<L: Lanes>(&self, f: impl Fn(L) -> L) -> [i8; N] {
        let mut codes = [0; N];
        for (x, out) in self.x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut::<LANES>().0) {
            for (out, code) in out.iter_mut().zip(f(L::load(x)).store()) {
                *out = code as i32 as i8;
            }
        }
        codes
    }
}

/// `1 / value`, 0 for 0.
#[inline(always)]
fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}
