//! Q6_K: 256 weights in 16 groups of 16, each with a signed 8-bit scale. 6.5625 bits per weight.
//!
//! ```text
//! byte   0..128  low 4 bits: byte 64n+j holds weight 128n+j in its low and 128n+64+j in its high half
//! byte 128..192  upper 2 bits: byte 128+32n+j holds weights 128n+j, +32, +64, +96 from its low bits up
//! byte 192..208  16 scales (i8)
//! byte 208..210  d (f16)       scale of the group scales
//!                weight = (d * scale) * (code - 32)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Linear, Prepared, Scalars, scaled_block};
use super::{Block, Quantize, Widen, bits};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q6K {
    low: [u8; 128],
    upper: [u8; 64],
    scales: [i8; 16],
    d: f16,
}
const _: () = assert!(size_of::<Q6K>() == 210);

impl Block for Q6K {
    const NAME: &'static str = "Q6_K";
    const ID: u32 = 14;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let d = W::f16(self.d);
        *bits::array(scales) = self.scales.map(|scale| d * scale as f32);
        let halves = self.low.as_chunks::<64>().0.iter().zip(self.upper.as_chunks::<32>().0);
        for ((low, upper), out) in halves.zip(codes.as_chunks_mut::<128>().0) {
            for j in 0..32 {
                out[j] = (low[j] & 15 | (upper[j] & 3) << 4) as i8 - 32;
                out[j + 32] = (low[j + 32] & 15 | (upper[j] >> 2 & 3) << 4) as i8 - 32;
                out[j + 64] = (low[j] >> 4 | (upper[j] >> 4 & 3) << 4) as i8 - 32;
                out[j + 96] = (low[j + 32] >> 4 | (upper[j] >> 6) << 4) as i8 - 32;
            }
        }
    }
}

/// Codes from -32 to 31 as they are stored: the low four bits, and the upper two.
#[inline(always)]
fn pack(codes: &[i8; 256]) -> ([u8; 128], [u8; 64]) {
    let codes = codes.map(|code| (code + 32) as u8);
    let (mut low, mut upper) = ([0; 128], [0; 64]);
    let halves = low.as_chunks_mut::<64>().0.iter_mut().zip(upper.as_chunks_mut::<32>().0);
    for ((low, upper), codes) in halves.zip(codes.as_chunks::<128>().0) {
        for j in 0..32 {
            let [a, b, c, d] = [codes[j], codes[j + 32], codes[j + 64], codes[j + 96]];
            low[j] = a & 15 | c << 4;
            low[j + 32] = b & 15 | d << 4;
            upper[j] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
    (low, upper)
}

impl Quantize for Q6K {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = scaled_block::<Linear<32>, L, 16, 16>(&Prepared::new::<L>(weights, importance), 128.0);
        let (low, upper) = pack(&block.codes);
        Self { low, upper, scales: block.scales, d: block.d }
    }
}

impl Recode for Q6K {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(-32.0, 31.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        (self.low, self.upper) = pack(&codes.scalars);
    }
}
