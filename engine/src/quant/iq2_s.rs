//! IQ2_S: 256 weights in 16 groups of 16 with a 4-bit scale; 8 weights are one of 1024 points with any signs.
//! 2.5625 bits per weight.
//!
//! ```text
//! byte  0..2   d (f16)      scale of the group scales
//! byte  2..34  low 8 bits of the indices: byte 2+j is about weights 8j..8j+8
//! byte 34..66  signs: bit k of byte 34+j is 1 where weight 8j+k is negative
//! byte 66..74  upper 2 bits of the indices: byte 66+i holds j = 4i to 4i+3 from its low bits up
//! byte 74..82  scales, 4 bits: byte 74+i holds group 2i in its low and 2i+1 in its high half
//!              weight = (d * (scale + 0.5) / 4) * sign * value of the point (8, 25 or 43)
//! ```

use super::compensate::Recode;
use super::grids::{self, LEVELS_2};
use super::search::{BlockCodes, Coder, Codes, Lattice, Octet, Points, Signs, lattice_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Iq2S {
    d: f16,
    low: [u8; 32],
    signs: [u8; 32],
    upper: [u8; 8],
    scales: [u8; 8],
}
const _: () = assert!(size_of::<Iq2S>() == 82);

static POINTS: [[i8; 8]; 1024] = grids::IQ2_S.values(&LEVELS_2);

static LATTICE: Lattice = Lattice {
    points: Points {
        lows: &grids::IQ2_S.lows(8, 3),
        starts: &grids::IQ2_S.starts::<82>(8, 3),
        levels: &LEVELS_2,
        codes: Codes::Eight(&POINTS),
        values: 8,
    },
    signs: Signs::Free,
    unit: 0.125,
    top: 15,
    octets: 2,
    rounds: 2,
};

impl Block for Iq2S {
    const NAME: &'static str = "IQ2_S";
    const ID: u32 = 22;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    fn points() -> Vec<u64> {
        grids::words(&POINTS)
    }

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let d = W::f16(self.d);
        *bits::array(scales) = bits::halves(&self.scales).map(|scale| d * (0.5 + scale as f32) * 0.25);
        for (j, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let upper = (self.upper[j / 4] >> (2 * (j % 4)) & 3) as usize;
            *out = bits::signed(POINTS[self.low[j] as usize | upper << 8], self.signs[j]);
        }
    }
}

/// Low bits of the points, and signs.
#[inline(always)]
fn pack(octets: &[Octet; 32]) -> [[u8; 32]; 2] {
    [octets.map(|octet| octet.points[0] as u8), octets.map(|octet| octet.signs)]
}

#[inline(always)]
fn pack_upper(octets: &[Octet; 32]) -> [u8; 8] {
    let upper = |i: usize, j: usize| (octets[4 * i + j].points[0] >> 8) as u8;
    std::array::from_fn(|i| (0..4).map(|j| upper(i, j) << (2 * j)).sum())
}

impl Quantize for Iq2S {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        let [low, signs] = pack(&block.octets);
        let upper = pack_upper(&block.octets);
        Self { d: block.d, low, signs, upper, scales: bits::join_halves(&block.scales) }
    }
}

impl Recode for Iq2S {
    const CODER: Coder = Coder::Octets(&LATTICE);

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        [self.low, self.signs] = pack(&codes.octets);
        self.upper = pack_upper(&codes.octets);
    }
}
