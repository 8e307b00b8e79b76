//! Activations as the kernels read them: f32 rows, and their quantized twin for block formats.
//!
//! 32 neighbours share one scale: `x = scale * code`, code in -127..=127, rounded to nearest even. Every
//! instruction set computes the same codes. Sums per group serve the formats with mins and the unsigned byte dots.

use crate::simd::{LANES, Lanes, ROUND, Work};

/// Neighbours that share a scale.
pub(super) const GROUP: usize = 32;

/// Numbers per quantized group of 32: scale, two sums of 16 and one of 32 (each scaled and as a byte offset).
const EXTRAS: usize = 7;

/// The inputs of a matmul, row-major.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    values: &'a [f32],
    width: usize,
    codes: &'a [i8],
    extras: &'a [f32],
}

/// One quantized row as a destination.
pub struct Quantized<'a> {
    pub(super) codes: &'a mut [i8],
    pub(super) extras: &'a mut [f32],
}

impl<'a> Quantized<'a> {
    /// Length of the extras of a row.
    pub fn extras_len(width: usize) -> usize {
        width.div_ceil(GROUP) * EXTRAS
    }

    /// A destination for one row: `width` codes and [`Quantized::extras_len`] extras.
    pub fn new(codes: &'a mut [i8], extras: &'a mut [f32]) -> Self {
        assert_eq!(extras.len(), Self::extras_len(codes.len()));
        Self { codes, extras }
    }
}

/// One quantized row; the arrays per group are those of the weights' group size.
#[derive(Clone, Copy)]
pub(super) struct QuantizedRow<'a> {
    pub(super) codes: &'a [i8],
    /// Per 32.
    pub(super) scales: &'a [f32],
    /// Per weight group: scale times the sum of its codes.
    pub(super) sums: &'a [f32],
    /// Per weight group: -128 times the sum of its codes, the bits of an i32.
    pub(super) offsets: &'a [f32],
}

impl QuantizedRow<'_> {
    /// Checks what bounds every load of the inner loops: a row of `width` with weights' groups of `group`.
    #[inline(always)]
    pub(super) fn check(&self, width: usize, group: usize) {
        let groups = width / group;
        assert!(self.codes.len() == width && self.scales.len() == width / GROUP);
        assert!(self.sums.len() == groups && self.offsets.len() == groups);
    }
}

impl<'a> Inputs<'a> {
    /// Rows of floats, `width` wide.
    pub fn floats(values: &'a [f32], width: usize) -> Self {
        Self { values, width, codes: &[], extras: &[] }
    }

    /// Rows with their quantized twin.
    pub fn with_codes(values: &'a [f32], width: usize, codes: &'a [i8], extras: &'a [f32]) -> Self {
        assert!(width.is_multiple_of(GROUP));
        Self { values, width, codes, extras }
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(super) fn row(&self, row: u32) -> &'a [f32] {
        &self.values[row as usize * self.width..][..self.width]
    }

    #[inline(always)]
    pub(super) fn quantized(&self, row: u32, weight_group: usize) -> QuantizedRow<'a> {
        let groups = self.width / GROUP;
        let extras = &self.extras[row as usize * groups * EXTRAS..][..groups * EXTRAS];
        let (scales, rest) = extras.split_at(groups);
        let (sums, offsets) = if weight_group == GROUP {
            (&rest[..groups], &rest[groups..2 * groups])
        } else {
            (&rest[2 * groups..4 * groups], &rest[4 * groups..])
        };
        QuantizedRow { codes: &self.codes[row as usize * self.width..][..self.width], scales, sums, offsets }
    }
}

/// One row and its quantized twin.
pub(super) struct QuantizeRow<'r, 'o, 'q>(pub(super) &'r [f32], pub(super) &'o mut Quantized<'q>);

impl Work for QuantizeRow<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self(row, out) = self;
        let groups = row.len() / GROUP;
        let (scales, rest) = out.extras.split_at_mut(groups);
        let (sums, rest) = rest.split_at_mut(groups);
        let (offsets, rest) = rest.split_at_mut(groups);
        let (half_sums, half_offsets) = rest.split_at_mut(2 * groups);
        let blocks = row.as_chunks::<GROUP>().0.iter().zip(out.codes.as_chunks_mut::<GROUP>().0);
        for (g, (values, codes)) in blocks.enumerate() {
            let (scale, halves) = quantize_group::<L>(values, codes);
            scales[g] = scale;
            for (half, &sum) in halves.iter().enumerate() {
                half_sums[2 * g + half] = scale * sum as f32;
                half_offsets[2 * g + half] = f32::from_bits((-128 * sum) as u32);
            }
            let sum = halves[0] + halves[1];
            sums[g] = scale * sum as f32;
            offsets[g] = f32::from_bits((-128 * sum) as u32);
        }
    }
}

/// A group's scale, and the sums of the codes of its halves.
#[inline(always)]
fn quantize_group<L: Lanes>(values: &[f32; GROUP], codes: &mut [i8; GROUP]) -> (f32, [i32; 2]) {
    let halves = values.as_chunks::<LANES>().0;
    let zero = L::splat(0.0);
    let mut lowest = zero;
    for half in halves {
        let half = L::load(half);
        lowest = lowest.min(half).min(zero - half);
    }
    let largest = -lowest.smallest();
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sums = [0; 2];
    for ((half, codes), sum) in halves.iter().zip(codes.as_chunks_mut::<LANES>().0).zip(&mut sums) {
        let rounded = L::load(half) * L::splat(inverse) + L::splat(ROUND);
        *sum = (rounded - L::splat(ROUND)).sum() as i32;
        for (code, rounded) in codes.iter_mut().zip(rounded.store()) {
            *code = rounded.to_bits() as i8;
        }
    }
    (largest / 127.0, sums)
}
