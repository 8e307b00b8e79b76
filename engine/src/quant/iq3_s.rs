//! IQ3_S: 256 weights in 8 groups of 32 with a 4-bit scale; 4 weights are one of 512 points with any signs.
//! 3.4375 bits per weight.
//!
//! ```text
//! byte   0..2    d (f16)      scale of the group scales
//! byte   2..66   low 8 bits of the indices: byte 2+j is about weights 4j..4j+4
//! byte  66..74   ninth bits of the indices: byte 66+i holds j = 8i to 8i+7 from its low bit up
//! byte  74..106  signs: bit k of byte 74+j is 1 where weight 8j+k is negative
//! byte 106..110  scales, 4 bits: byte 106+i holds group 2i in its low and 2i+1 in its high half
//!                weight = (d * (2 * scale + 1)) * sign * value of the point (odd, 1 to 15)
//! ```

use super::compensate::Recode;
use super::grids;
use super::search::{BlockCodes, Coder, Codes, Lattice, Octet, Points, Signs, lattice_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Iq3S {
    d: f16,
    low: [u8; 64],
    ninth: [u8; 8],
    signs: [u8; 32],
    scales: [u8; 4],
}
const _: () = assert!(size_of::<Iq3S>() == 110);

const LEVELS: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
static POINTS: [[i8; 4]; 512] = grids::IQ3_S.values(&LEVELS);

static LATTICE: Lattice = Lattice {
    points: Points {
        lows: &grids::IQ3_S.lows(4, 8),
        starts: &grids::IQ3_S.starts::<65>(4, 8),
        levels: &LEVELS,
        codes: Codes::Four(&POINTS),
        values: 4,
    },
    signs: Signs::Free,
    unit: 1.0,
    top: 15,
    octets: 4,
    rounds: 2,
};

impl Block for Iq3S {
    const NAME: &'static str = "IQ3_S";
    const ID: u32 = 21;
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
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = d * (1 + 2 * (self.scales[i / 2] >> (4 * (i % 2)) & 15)) as f32;
        }
        for (j, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let ninth = (self.ninth[j / 4] >> (2 * (j % 4))) as usize;
            let first = POINTS[self.low[2 * j] as usize | (ninth & 1) << 8];
            let second = POINTS[self.low[2 * j + 1] as usize | (ninth >> 1 & 1) << 8];
            *out = bits::signed(bits::join(first, second), self.signs[j]);
        }
    }
}

/// Low and ninth bits of the points, and signs.
#[inline(always)]
fn pack(octets: &[Octet; 32]) -> ([u8; 64], [u8; 8], [u8; 32]) {
    let point = |j: usize| octets[j / 2].points[j % 2];
    (
        std::array::from_fn(|j| point(j) as u8),
        std::array::from_fn(|i| (0..8).map(|j| ((point(8 * i + j) >> 8) as u8) << j).sum()),
        octets.map(|octet| octet.signs),
    )
}

impl Quantize for Iq3S {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        let (low, ninth, signs) = pack(&block.octets);
        let scales = std::array::from_fn(|i| block.scales[2 * i] | block.scales[2 * i + 1] << 4);
        Self { d: block.d, low, ninth, signs, scales }
    }
}

impl Recode for Iq3S {
    const CODER: Coder = Coder::Octets(&LATTICE);

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        (self.low, self.ninth, self.signs) = pack(&codes.octets);
    }
}
