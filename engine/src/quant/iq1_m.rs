//! IQ1_M: 256 weights in 16 groups of 16 with a 3-bit scale; 8 weights are one of 2048 points, with a shift.
//! 1.75 bits per weight.
//!
//! ```text
//! byte  0..32  low 8 bits of the indices: byte j is about weights 8j..8j+8
//! byte 32..48  4 bits for each j, j = 2i in the low and 2i+1 in the high half of byte 32+i: the upper 3 bits of the
//!              index, and 1 in the fourth where the shift is negative
//! byte 48..56  4 u16: bits 3k..3k+3 of number i are the scale of group 4i+k, bits 12..16 are bits 4i..4i+4 of
//!              d (f16), the scale of the group scales
//!              weight = (d * (2 * scale + 1)) * (value of the point (-1, 0 or 1) +- 1/8)
//! ```

use super::grids;
use super::iq1_s::{IQ1, POINTS};
use super::search::{Lattice, Signs, lattice_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Iq1M {
    low: [u8; 32],
    upper: [u8; 16],
    scales: [[u8; 2]; 4],
}
const _: () = assert!(size_of::<Iq1M>() == 56);

static LATTICE: Lattice =
    Lattice { points: IQ1, signs: Signs::Shifted, unit: 0.125, top: 7, octets: 2, rounds: 1 };

impl Block for Iq1M {
    const NAME: &'static str = "IQ1_M";
    const ID: u32 = 29;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    fn points() -> Vec<u64> {
        grids::words(&POINTS)
    }

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let scales: &mut [f32; 16] = bits::array(scales);
        let words = self.scales.map(u16::from_le_bytes);
        let d = W::f16(scale_of(words));
        for (group, scale) in scales.iter_mut().enumerate() {
            let code = words[group / 4] >> (3 * (group % 4)) & 7;
            *scale = d * (2 * code + 1) as f32 * 0.125;
        }
        for (j, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let upper = self.upper[j / 2] >> (4 * (j % 2));
            let shift = 1 - (upper >> 2 & 2) as i8;
            let point = POINTS[self.low[j] as usize | (upper as usize & 7) << 8];
            *out = point.map(|value| value + shift);
        }
    }
}

/// The scale of the block, four bits of each word.
#[inline(always)]
fn scale_of(words: [u16; 4]) -> f16 {
    f16::from_bits((0..4).map(|i| words[i] >> 12 << (4 * i)).sum())
}

/// The words with another scale.
#[inline(always)]
fn with_scale(words: [u16; 4], d: f16) -> [[u8; 2]; 4] {
    std::array::from_fn(|i| (words[i] & 0xfff | d.to_bits() >> (4 * i) << 12).to_le_bytes())
}

impl Quantize for Iq1M {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| {
        let words = block.scales.map(u16::from_le_bytes);
        let mut d = scale_of(words);
        float::stretch(&mut d, factor);
        block.scales = with_scale(words, d);
    });

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        let upper = block.octets.map(|octet| (octet.points[0] >> 8) as u8 | u8::from(octet.lowered) << 3);
        let codes = |i: usize| (0..4).map(|k| u16::from(block.scales[4 * i + k]) << (3 * k)).sum();
        Self {
            low: block.octets.map(|octet| octet.points[0] as u8),
            upper: std::array::from_fn(|i| upper[2 * i] | upper[2 * i + 1] << 4),
            scales: with_scale(std::array::from_fn(codes), block.d),
        }
    }
}
