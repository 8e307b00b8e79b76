//! IQ1_S: 256 weights in 8 groups of 32 with a 3-bit scale and a shift; 8 weights are one of 2048 points.
//! 1.5625 bits per weight.
//!
//! ```text
//! byte  0..2   d (f16)      scale of the group scales
//! byte  2..34  low 8 bits of the indices: byte 2+j is about weights 8j..8j+8
//! byte 34..50  8 u16, one per group: bits 3j..3j+3 are the upper bits of the index of its weights 8j..8j+8;
//!              bits 12..15 the scale; bit 15 is 1 where the shift is negative
//!              weight = (d * (2 * scale + 1)) * (value of the point (-1, 0 or 1) +- 1/8)
//! ```

use super::grids::{self, LEVELS_1};
use super::search::{Codes, Lattice, Octet, Points, Signs, lattice_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Iq1S {
    d: f16,
    low: [u8; 32],
    groups: [[u8; 2]; 8],
}
const _: () = assert!(size_of::<Iq1S>() == 50);

/// Eight times the points of IQ1_S and IQ1_M: the shift is 1 in this measure.
pub(super) static POINTS: [[i8; 8]; 2048] = grids::IQ1.values(&LEVELS_1);

/// What is common to IQ1_S and IQ1_M.
pub(super) const IQ1: Points = Points {
    lows: &grids::IQ1.lows(8, 3),
    starts: &grids::IQ1.starts::<82>(8, 3),
    levels: &LEVELS_1,
    codes: Codes::Eight(&POINTS),
    values: 8,
};

static LATTICE: Lattice =
    Lattice { points: IQ1, signs: Signs::ShiftedTogether, unit: 0.125, top: 7, octets: 4, rounds: 1 };

impl Block for Iq1S {
    const NAME: &'static str = "IQ1_S";
    const ID: u32 = 19;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    fn points() -> Vec<u64> {
        grids::words(&POINTS)
    }

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let scales: &mut [f32; 8] = bits::array(scales);
        let d = W::f16(self.d);
        let groups = self.groups.iter().zip(self.low.as_chunks::<4>().0);
        for (((group, low), codes), scale) in groups.zip(codes.as_chunks_mut::<32>().0).zip(scales) {
            let group = u16::from_le_bytes(*group) as usize;
            *scale = d * (2 * (group >> 12 & 7) + 1) as f32 * 0.125;
            let shift = 1 - 2 * (group >> 15) as i8;
            for (j, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let point = POINTS[low[j] as usize | (group >> (3 * j) & 7) << 8];
                *out = point.map(|value| value + shift);
            }
        }
    }
}

impl Quantize for Iq1S {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        let groups = std::array::from_fn(|g| {
            let octets: &[Octet; 4] = &block.octets.as_chunks().0[g];
            let upper = (0..4).map(|j| octets[j].points[0] >> 8 << (3 * j)).sum::<u16>();
            (upper | u16::from(block.scales[g]) << 12 | u16::from(octets[0].lowered) << 15).to_le_bytes()
        });
        Self { d: block.d, low: block.octets.map(|octet| octet.points[0] as u8), groups }
    }
}
