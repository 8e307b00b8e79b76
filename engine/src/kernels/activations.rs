//! Activations as the kernels read them: f32 rows, and their quantized twin for block formats.
//!
//! Some neighbours share one scale: `x = scale * code`, code in -127..=127, rounded to nearest even. How many is the
//! weights' matter ([`Grain`]). Every instruction set computes the same codes. Sums per group serve the formats with mins
//! and the unsigned byte dots.

use crate::quant::{Block, Grain};
use crate::simd::{LANES, Lanes, ROUND, Work};
use bytemuck::{cast_slice, cast_slice_mut};

/// Neighbours that have a scale in their row, which may be that of the groups beside them.
pub(super) const GROUP: usize = 32;

/// From this many input rows on, weights are unpacked into panels that all inputs share.
const WIDE: usize = 4;

/// Words per quantized group of 32, floats as their bits among whole numbers: scale, two sums of 16 and one of 32 (each scaled and as a byte offset), and both
/// sums of 16 in one.
const EXTRAS: usize = 8;

/// The inputs of a matmul, row-major.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    values: &'a [f32],
    width: usize,
    /// By [`Grain`].
    coded: [Coded<'a>; 2],
    are_apart: bool,
}

/// Quantized rows.
#[derive(Clone, Copy, Default)]
struct Coded<'a> {
    codes: &'a [i8],
    extras: &'a [u32],
}

/// One quantized row as a destination.
pub(crate) struct Quantized<'a> {
    pub(super) codes: &'a mut [i8],
    pub(super) extras: &'a mut [u32],
}

impl<'a> Quantized<'a> {
    /// Length of the extras of a row.
    pub(crate) fn extras_len(width: usize) -> usize {
        width.div_ceil(GROUP) * EXTRAS
    }

    /// A destination for one row: `width` codes and [`Quantized::extras_len`] extras.
    pub(crate) fn new(codes: &'a mut [i8], extras: &'a mut [u32]) -> Self {
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
    /// Per weight group: -128 times the sum of its codes.
    pub(super) offsets: &'a [i32],
    /// Per 32: the sums of the codes of both halves, an i16 each, the first one's below.
    pub(super) pairs: &'a [i32],
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
    pub(crate) fn floats(values: &'a [f32], width: usize) -> Self {
        Self { values, width, coded: [Coded::default(); 2], are_apart: false }
    }

    /// The same rows with a quantized twin.
    pub(crate) fn with_codes(mut self, grain: Grain, codes: &'a [i8], extras: &'a [u32]) -> Self {
        assert!(self.width.is_multiple_of(grain.neighbours()));
        self.coded[grain as usize] = Coded { codes, extras };
        self
    }

    /// The same rows, each of which becomes to the bit what it becomes alone: kernels without panels add up in another
    /// order where many inputs share a row of weights.
    pub(crate) fn apart(self) -> Self {
        Self { are_apart: true, ..self }
    }

    /// From how many inputs on kernels without panels may do that.
    pub(super) fn wide(&self) -> usize {
        if self.are_apart { usize::MAX } else { WIDE }
    }

    /// Width of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(super) fn row(&self, row: u32) -> &'a [f32] {
        &self.values[row as usize * self.width..][..self.width]
    }

    #[inline(always)]
    pub(super) fn quantized<B: Block>(&self, row: u32) -> QuantizedRow<'a> {
        let Coded { codes, extras } = self.coded[B::INPUTS as usize];
        let (row, groups) = (row as usize, self.width / GROUP);
        let extras = &extras[row * groups * EXTRAS..][..groups * EXTRAS];
        let (scales, rest) = extras.split_at(groups);
        let (sums, offsets) = if B::GROUP == GROUP {
            (&rest[..groups], &rest[groups..2 * groups])
        } else {
            (&rest[2 * groups..4 * groups], &rest[4 * groups..6 * groups])
        };
        QuantizedRow {
            codes: &codes[row * self.width..][..self.width],
            scales: cast_slice(scales),
            sums: cast_slice(sums),
            offsets: cast_slice(offsets),
            pairs: cast_slice(&rest[6 * groups..]),
        }
    }
}

/// One row and its quantized twin.
pub(super) struct QuantizeRow<'r, 'o, 'q>(
    pub(super) &'r [f32],
    pub(super) Grain,
    pub(super) &'o mut Quantized<'q>,
);

impl Work for QuantizeRow<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self(row, grain, out) = self;
        let groups = row.len() / GROUP;
        let (scales, rest) = out.extras.split_at_mut(groups);
        let (sums, rest) = rest.split_at_mut(groups);
        let (offsets, rest) = rest.split_at_mut(groups);
        let (half_sums, rest) = rest.split_at_mut(2 * groups);
        let (half_offsets, pairs) = rest.split_at_mut(2 * groups);
        let (scales, sums): (&mut [f32], &mut [f32]) = (cast_slice_mut(scales), cast_slice_mut(sums));
        let half_sums: &mut [f32] = cast_slice_mut(half_sums);
        let mut scale = Scale::default();
        let blocks = row.as_chunks::<GROUP>().0.iter().zip(out.codes.as_chunks_mut::<GROUP>().0);
        for (g, (values, codes)) in blocks.enumerate() {
            if (g * GROUP).is_multiple_of(grain.neighbours()) {
                scale = Scale::of::<L>(&row[g * GROUP..][..grain.neighbours()]);
            }
            let halves = quantize_group::<L>(values, scale.inverse, codes);
            scales[g] = scale.scale;
            for (half, &sum) in halves.iter().enumerate() {
                half_sums[2 * g + half] = scale.scale * sum as f32;
                half_offsets[2 * g + half] = (-128 * sum) as u32;
            }
            let sum = halves[0] + halves[1];
            sums[g] = scale.scale * sum as f32;
            offsets[g] = (-128 * sum) as u32;
            pairs[g] = halves[0] as u16 as u32 | (halves[1] as u32) << 16;
        }
    }
}

/// What brings numbers to -127..=127.
#[derive(Clone, Copy, Default)]
struct Scale {
    scale: f32,
    inverse: f32,
}

impl Scale {
    /// That of numbers, a multiple of [`LANES`].
    #[inline(always)]
    fn of<L: Lanes>(values: &[f32]) -> Self {
        let zero = L::splat(0.0);
        let mut lowest = zero;
        for values in values.as_chunks::<LANES>().0 {
            let values = L::load(values);
            lowest = lowest.min(values).min(zero - values);
        }
        let largest = -lowest.smallest();
        Self { scale: largest / 127.0, inverse: if largest > 0.0 { 127.0 / largest } else { 0.0 } }
    }
}

/// A group's codes; the sums of those of its halves.
#[inline(always)]
fn quantize_group<L: Lanes>(values: &[f32; GROUP], inverse: f32, codes: &mut [i8; GROUP]) -> [i32; 2] {
    let halves = values.as_chunks::<LANES>().0;
    let mut sums = [0; 2];
    for ((half, codes), sum) in halves.iter().zip(codes.as_chunks_mut::<LANES>().0).zip(&mut sums) {
        let rounded = L::load(half) * L::splat(inverse) + L::splat(ROUND);
        *sum = (rounded - L::splat(ROUND)).sum() as i32;
        for (code, rounded) in codes.iter_mut().zip(rounded.store()) {
            *code = rounded.to_bits() as i8;
        }
    }
    sums
}
