//! IQ3_XXS: 256 weights in 8 groups of 32 with a 4-bit scale; 4 weights are one of 256 points, and of 8 an even
//! number is negative. 3.0625 bits per weight.
//!
//! ```text
//! byte  0..2   d (f16)      scale of the group scales
//! byte  2..66  indices of the points: byte 2+j is about weights 4j..4j+4
//! byte 66..98  8 u32, one per group: bits 7j..7j+7 are the signs of the first seven of its weights 8j..8j+8, 1 for
//!              minus; the eighth sign makes the minus signs even; bits 28..32 are the scale
//!              weight = (d * (scale + 0.5) / 2) * sign * value of the point (4, 12, 20, 28, 36, 44, 52 or 62)
//! ```

use super::compensate::Recode;
use super::grids;
use super::iq2_xxs::pack_signs;
use super::search::{BlockCodes, Coder, Codes, Lattice, Octet, Points, Signs, lattice_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Iq3Xxs {
    d: f16,
    indices: [u8; 64],
    groups: [[u8; 4]; 8],
}
const _: () = assert!(size_of::<Iq3Xxs>() == 98);

const LEVELS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
static POINTS: [[i8; 4]; 256] = grids::IQ3_XXS.values(&LEVELS);

static LATTICE: Lattice = Lattice {
    points: Points {
        lows: &grids::IQ3_XXS.lows(4, 8),
        starts: &grids::IQ3_XXS.starts::<65>(4, 8),
        levels: &LEVELS,
        codes: Codes::Four(&POINTS),
        values: 4,
    },
    signs: Signs::Even,
    unit: 0.25,
    top: 15,
    octets: 4,
    rounds: 2,
};

impl Block for Iq3Xxs {
    const NAME: &'static str = "IQ3_XXS";
    const ID: u32 = 18;
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
        let groups = self.groups.iter().zip(self.indices.as_chunks::<8>().0);
        for (((rest, indices), codes), scale) in groups.zip(codes.as_chunks_mut::<32>().0).zip(scales) {
            let rest = u32::from_le_bytes(*rest);
            *scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
            for (j, out) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let point = bits::join(POINTS[indices[2 * j] as usize], POINTS[indices[2 * j + 1] as usize]);
                *out = bits::signed(point, bits::even((rest >> (7 * j) & 127) as u8));
            }
        }
    }
}

#[inline(always)]
fn pack(octets: &[Octet; 32]) -> [u8; 64] {
    std::array::from_fn(|i| octets[i / 2].points[i % 2] as u8)
}

impl Quantize for Iq3Xxs {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        let groups = std::array::from_fn(|g| {
            let signs = pack_signs(&block.octets.as_chunks().0[g]);
            (signs | u32::from(block.scales[g]) << 28).to_le_bytes()
        });
        Self { d: block.d, indices: pack(&block.octets), groups }
    }
}

impl Recode for Iq3Xxs {
    const CODER: Coder = Coder::Octets(&LATTICE);

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.indices = pack(&codes.octets);
        for (group, octets) in self.groups.iter_mut().zip(codes.octets.as_chunks().0) {
            *group = (pack_signs(octets) | u32::from(group[3] >> 4) << 28).to_le_bytes();
        }
    }
}
