//! Q5_K: 256 weights in 8 groups of 32, each with a 6-bit scale and a 6-bit min. 5.5 bits per weight.
//!
//! ```text
//! byte   0..2    d (f16)       scale of the group scales
//! byte   2..4    dmin (f16)    scale of the group mins
//! byte   4..16   8 scales and 8 mins, 6 bits packed as in Q4_K
//! byte  16..48   fifth bits: bit i of byte 16+j belongs to weight 32i+j
//! byte  48..176  low 4 bits: byte 48+32i+j holds weight 64i+j in its low and 64i+32+j in its high half
//!                weight = (d * scale) * code - (dmin * min)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Prepared, Scalars, affine_block};
use super::{Block, Quantize, Widen, bits, q4_k};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q5K {
    d: f16,
    dmin: f16,
    scales: [u8; 12],
    fifth: [u8; 32],
    codes: [u8; 128],
}
const _: () = assert!(size_of::<Q5K>() == 176);

impl Block for Q5K {
    const NAME: &'static str = "Q5_K";
    const ID: u32 = 13;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let (d, dmin) = (W::f16(self.d), W::f16(self.dmin));
        let (group_scales, group_mins) = q4_k::scales_mins(&self.scales);
        *bits::array(scales) = group_scales.map(|scale| d * scale as f32);
        *bits::array(mins) = group_mins.map(|min| dmin * min as f32);
        let pairs = self.codes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0);
        for (i, (packed, out)) in pairs.enumerate() {
            for j in 0..32 {
                let fifth = self.fifth[j] >> (2 * i);
                out[j] = (packed[j] & 15 | (fifth & 1) << 4) as i8;
                out[j + 32] = (packed[j] >> 4 | (fifth >> 1 & 1) << 4) as i8;
            }
        }
    }
}

/// The low four bits of the codes, and the fifth ones.
#[inline(always)]
fn pack(codes: &[i8; 256]) -> ([u8; 128], [u8; 32]) {
    let (mut packed, mut fifth) = ([0; 128], [0; 32]);
    for (i, (codes, packed)) in
        codes.as_chunks::<64>().0.iter().zip(packed.as_chunks_mut::<32>().0).enumerate()
    {
        for j in 0..32 {
            let (low, high) = (codes[j] as u8, codes[j + 32] as u8);
            packed[j] = low & 15 | high << 4;
            fifth[j] |= (low >> 4 | high >> 4 << 1) << (2 * i);
        }
    }
    (packed, fifth)
}

impl Quantize for Q5K {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = affine_block::<L, 8, 32>(&Prepared::new::<L>(weights, importance), 31.0, 63.0);
        let (codes, fifth) = pack(&block.codes);
        let scales = q4_k::pack_scales_mins(&block.scales, &block.mins);
        Self { d: block.d, dmin: block.dmin, scales, fifth, codes }
    }
}

impl Recode for Q5K {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(0.0, 31.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        (self.codes, self.fifth) = pack(&codes.scalars);
    }
}
