//! Q3_K: 256 weights in 16 groups of 16, each with a signed 6-bit scale. 3.4375 bits per weight.
//!
//! ```text
//! byte   0..32   third bits: bit i of byte j belongs to weight 32i+j
//! byte  32..96   low 2 bits: byte 32+32n+j holds weights 128n+j, +32, +64, +96 from its low bits up
//! byte  96..108  16 scales, 6 bits see `group_scales`
//! byte 108..110  d (f16)       scale of the group scales
//!                weight = (d * (scale - 32)) * (code - 4)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Linear, Prepared, Scalars, scaled_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q3K {
    third: [u8; 32],
    codes: [u8; 64],
    scales: [u8; 12],
    d: f16,
}
const _: () = assert!(size_of::<Q3K>() == 110);

/// The 16 group scales: bytes 0..8 hold the low 4 bits of scales 0..8 and, in their high halves, 8..16; bytes
/// 8..12 hold the upper 2 bits of scales j, 4+j, 8+j and 12+j from the low bits up.
#[inline(always)]
fn group_scales(packed: &[u8; 12]) -> [[i8; 4]; 4] {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, upper) = (word(0), word(4), word(8));
    let join = |low: u32, upper: u32| {
        let scales = low & 0x0f0f_0f0f | (upper & 0x0303_0303) << 4;
        scales.to_le_bytes().map(|scale| scale as i8 - 32)
    };
    [join(a, upper), join(b, upper >> 2), join(a >> 4, upper >> 4), join(b >> 4, upper >> 6)]
}

impl Block for Q3K {
    const NAME: &'static str = "Q3_K";
    const ID: u32 = 11;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let d = W::f16(self.d);
        let scales: &mut [f32; 16] = bits::array(scales);
        for (out, group_scales) in scales.as_chunks_mut::<4>().0.iter_mut().zip(group_scales(&self.scales)) {
            *out = group_scales.map(|scale| d * scale as f32);
        }
        let (low, high) = self.codes.split_at(32);
        for j in 0..32 {
            for quarter in 0..4 {
                let shift = 2 * quarter;
                let third = |i: usize| (self.third[j] >> i & 1) << 2;
                codes[j + 32 * quarter] = (low[j] >> shift & 3 | third(quarter)) as i8 - 4;
                codes[j + 32 * quarter + 128] = (high[j] >> shift & 3 | third(quarter + 4)) as i8 - 4;
            }
        }
    }
}

/// The reverse of [`group_scales`].
#[inline(always)]
fn pack_scales(scales: &[i8; 16]) -> [u8; 12] {
    let codes = scales.map(|scale| (scale + 32) as u8);
    let upper = |i: usize| codes[i] >> 4;
    std::array::from_fn(|i| match i {
        0..8 => codes[i] & 15 | codes[i + 8] << 4,
        _ => upper(i - 8) | upper(i - 4) << 2 | upper(i) << 4 | upper(i + 4) << 6,
    })
}

/// Codes from -4 to 3 as they are stored: the third bits, and the others.
#[inline(always)]
fn pack(codes: &[i8; 256]) -> ([u8; 32], [u8; 64]) {
    let codes = codes.map(|code| (code + 4) as u8);
    let mut third = [0; 32];
    for (i, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for j in 0..32 {
            third[j] |= codes[j] >> 2 << i;
        }
    }
    (third, bits::join_pairs(&codes.map(|code| code & 3)))
}

impl Quantize for Q3K {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = scaled_block::<Linear<4>, L, 16, 16>(&Prepared::new::<L>(weights, importance), 32.0);
        let (third, codes) = pack(&block.codes);
        Self { third, codes, scales: pack_scales(&block.scales), d: block.d }
    }
}

impl Recode for Q3K {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(-4.0, 3.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        (self.third, self.codes) = pack(&codes.scalars);
    }
}
