//! Q2_K: 256 weights in 16 groups of 16, each with a 4-bit scale and a 4-bit min. 2.625 bits per weight.
//!
//! ```text
//! byte   0..16   group i: scale in the low, min in the high half of byte i
//! byte  16..80   codes, 2 bits: byte 16+32n+j holds weights 128n+j, +32, +64, +96 from its low bits up
//! byte  80..82   d (f16)       scale of the group scales
//! byte  82..84   dmin (f16)    scale of the group mins
//!                weight = (d * scale) * code - (dmin * min)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Prepared, Scalars, affine_block};
use super::{Block, Grain, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q2K {
    scales: [u8; 16],
    codes: [u8; 64],
    d: f16,
    dmin: f16,
}
const _: () = assert!(size_of::<Q2K>() == 84);

impl Block for Q2K {
    const NAME: &'static str = "Q2_K";
    const ID: u32 = 10;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = true;
    const INPUTS: Grain = Grain::Coarse;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let (scales, mins): (&mut [f32; 16], &mut [f32; 16]) = (bits::array(scales), bits::array(mins));
        let (d, dmin) = (W::f16(self.d), W::f16(self.dmin));
        for i in 0..16 {
            scales[i] = d * (self.scales[i] & 15) as f32;
            mins[i] = dmin * (self.scales[i] >> 4) as f32;
        }
        for (packed, out) in self.codes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
            for j in 0..32 {
                for quarter in 0..4 {
                    out[j + 32 * quarter] = (packed[j] >> (2 * quarter) & 3) as i8;
                }
            }
        }
    }
}

#[inline(always)]
fn pack(codes: &[i8; 256]) -> [u8; 64] {
    bits::join_pairs(&codes.map(|code| code as u8))
}

impl Quantize for Q2K {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| {
        float::stretch(&mut block.d, factor);
        float::stretch(&mut block.dmin, factor);
    });

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = affine_block::<L, 16, 16>(&Prepared::new::<L>(weights, importance), 3.0, 15.0);
        let scales = std::array::from_fn(|i| block.scales[i] | block.mins[i] << 4);
        Self { scales, codes: pack(&block.codes), d: block.d, dmin: block.dmin }
    }
}

impl Recode for Q2K {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(0.0, 3.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.codes = pack(&codes.scalars);
    }
}
