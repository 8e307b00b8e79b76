//! TQ2_0: 256 weights of -1, 0 and 1 with one scale, four to a byte. 2.0625 bits per weight.
//!
//! ```text
//! byte  0..64  codes, 2 bits: byte 32n+j holds weights 128n+j, +32, +64, +96 from its low bits up
//! byte 64..66  d (f16)      scale
//!              weight = d * (code - 1)
//! ```
//!
//! Code 3 stands for 2; nothing writes it.

use super::search::{Prepared, ternary_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Tq20 {
    codes: [u8; 64],
    d: f16,
}
const _: () = assert!(size_of::<Tq20>() == 66);

impl Block for Tq20 {
    const NAME: &'static str = "TQ2_0";
    const ID: u32 = 35;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        for (packed, out) in self.codes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
            for j in 0..32 {
                for quarter in 0..4 {
                    out[j + 32 * quarter] = (packed[j] >> (2 * quarter) & 3) as i8 - 1;
                }
            }
        }
        *bits::array(scales) = [W::f16(self.d); 8];
    }
}

impl Quantize for Tq20 {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, codes) = ternary_block::<L>(&Prepared::new::<L>(weights, importance));
        Self { codes: bits::join_pairs(&codes.map(|code| (code + 1) as u8)), d }
    }
}
