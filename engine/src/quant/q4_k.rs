//! Q4_K: 256 weights in 8 groups of 32, each with a 6-bit scale and a 6-bit min. 4.5 bits per weight.
//!
//! ```text
//! byte   0..2    d (f16)       scale of the group scales
//! byte   2..4    dmin (f16)    scale of the group mins
//! byte   4..16   8 scales and 8 mins, 6 bits see `scales_mins`
//! byte  16..144  codes, 4 bits: byte 16+32i+j holds weight 64i+j in its low and 64i+32+j in its high half
//!                weight = (d * scale) * code - (dmin * min)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Prepared, Scalars, affine_block};
use super::{Block, Quantize, Widen, bits};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q4K {
    d: f16,
    dmin: f16,
    scales: [u8; 12],
    codes: [u8; 128],
}
const _: () = assert!(size_of::<Q4K>() == 144);

/// The 6-bit scales and mins of the 8 groups of Q4_K and Q5_K.
///
/// Bytes 0..4 hold the scales and 4..8 the mins of groups 0..4 in their low 6 bits; groups 4..8 have their low
/// 4 bits in bytes 8..12 (scale low, min high) and their upper 2 bits in the top of bytes 0..8.
#[inline(always)]
pub(super) fn scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (scales, mins, rest) = (word(0), word(4), word(8));
    let upper_scales = rest & 0x0f0f_0f0f | (scales >> 2 & 0x3030_3030);
    let upper_mins = rest >> 4 & 0x0f0f_0f0f | (mins >> 2 & 0x3030_3030);
    let join = |low: u32, high: u32| (low as u64 & 0x3f3f_3f3f | (high as u64) << 32).to_le_bytes();
    (join(scales, upper_scales), join(mins, upper_mins))
}

impl Block for Q4K {
    const NAME: &'static str = "Q4_K";
    const ID: u32 = 12;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let (d, dmin) = (W::f16(self.d), W::f16(self.dmin));
        let (group_scales, group_mins) = scales_mins(&self.scales);
        *bits::array(scales) = group_scales.map(|scale| d * scale as f32);
        *bits::array(mins) = group_mins.map(|min| dmin * min as f32);
        for (packed, out) in self.codes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
            for j in 0..32 {
                out[j] = (packed[j] & 15) as i8;
                out[j + 32] = (packed[j] >> 4) as i8;
            }
        }
    }
}

/// The reverse of [`scales_mins`].
#[inline(always)]
pub(super) fn pack_scales_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | mins[i - 4] << 4,
    })
}

#[inline(always)]
fn pack(codes: &[i8; 256]) -> [u8; 128] {
    let mut packed = [0; 128];
    for (codes, packed) in codes.as_chunks::<64>().0.iter().zip(packed.as_chunks_mut::<32>().0) {
        *packed = std::array::from_fn(|j| (codes[j] | codes[j + 32] << 4) as u8);
    }
    packed
}

impl Quantize for Q4K {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = affine_block::<L, 8, 32>(&Prepared::new::<L>(weights, importance), 15.0, 63.0);
        let scales = pack_scales_mins(&block.scales, &block.mins);
        Self { d: block.d, dmin: block.dmin, scales, codes: pack(&block.codes) }
    }
}

impl Recode for Q4K {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(0.0, 15.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.codes = pack(&codes.scalars);
    }
}
