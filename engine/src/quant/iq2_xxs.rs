//! IQ2_XXS: 256 weights in 8 groups of 32 with a 4-bit scale; 8 weights are one of 256 points with an even number of
//! minus signs. 2.0625 bits per weight.
//!
//! ```text
//! byte  0..2   d (f16)        scale of the group scales
//! byte  2..66  8 groups of 8 bytes:
//!   byte 0..4  index of the point of weights 8j..8j+8 in byte j
//!   byte 4..8  u32: bits 7j..7j+7 are the signs of the first seven of weights 8j..8j+8, 1 for minus; the eighth
//!              sign makes the minus signs even; bits 28..32 are the scale
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
pub(super) struct Iq2Xxs {
    d: f16,
    groups: [[[u8; 4]; 2]; 8],
}
const _: () = assert!(size_of::<Iq2Xxs>() == 66);

static POINTS: [[i8; 8]; 256] = grids::IQ2_XXS.values(&LEVELS_2);

static LATTICE: Lattice = Lattice {
    points: Points {
        lows: &grids::IQ2_XXS.lows(8, 3),
        starts: &grids::IQ2_XXS.starts::<82>(8, 3),
        levels: &LEVELS_2,
        codes: Codes::Eight(&POINTS),
        values: 8,
    },
    signs: Signs::Even,
    unit: 0.125,
    top: 15,
    octets: 4,
    rounds: 2,
};

impl Block for Iq2Xxs {
    const NAME: &'static str = "IQ2_XXS";
    const ID: u32 = 16;
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
        let groups = self.groups.iter().zip(codes.as_chunks_mut::<32>().0);
        for (([indices, rest], codes), scale) in groups.zip(scales) {
            let rest = u32::from_le_bytes(*rest);
            *scale = d * (0.5 + (rest >> 28) as f32) * 0.25;
            for (j, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let signs = bits::even((rest >> (7 * j) & 127) as u8);
                *out = bits::signed(POINTS[indices[j] as usize], signs);
            }
        }
    }
}

#[inline(always)]
fn pack(octets: &[Octet; 4], scale: u8) -> [[u8; 4]; 2] {
    let rest = pack_signs(octets) | u32::from(scale) << 28;
    [octets.map(|octet| octet.points[0] as u8), rest.to_le_bytes()]
}

/// Seven signs of each octet side by side, as IQ3_XXS has them too.
#[inline(always)]
pub(super) fn pack_signs(octets: &[Octet; 4]) -> u32 {
    (0..4).map(|j| u32::from(octets[j].signs & 127) << (7 * j)).sum()
}

impl Quantize for Iq2Xxs {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        let groups = std::array::from_fn(|g| {
            let octets: &[Octet; 4] = &block.octets.as_chunks().0[g];
            pack(octets, block.scales[g])
        });
        Self { d: block.d, groups }
    }
}

impl Recode for Iq2Xxs {
    const CODER: Coder = Coder::Octets(&LATTICE);

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        for (group, octets) in self.groups.iter_mut().zip(codes.octets.as_chunks().0) {
            *group = pack(octets, group[1][3] >> 4);
        }
    }
}
