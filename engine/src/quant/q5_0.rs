//! Q5_0: 32 weights, one scale, 5 bits each. 5.5 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..6    fifth bits (u32): bit i belongs to weight i
//! byte  6..22   low 4 bits: byte 6+j holds weight j in its low and 16+j in its high half
//!               weight = d * (code - 16)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Linear, Prepared, Scalars, scaled_group};
use super::{Block, Quantize, Widen, bits};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Q5_0 {
    d: f16,
    fifth: [u8; 4],
    codes: [u8; 16],
}
const _: () = assert!(size_of::<Q5_0>() == 22);

impl Block for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const ID: u32 = 6;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        bits::nibbles_and_fifth::<true>(&self.codes, self.fifth, bits::array(codes));
        scales[0] = W::f16(self.d);
    }
}

/// Codes from -16 to 15 as they are stored.
#[inline(always)]
fn pack(codes: &[i8; 32]) -> ([u8; 16], [u8; 4]) {
    bits::join_nibbles_and_fifth(&codes.map(|code| (code + 16) as u8))
}

impl Quantize for Q5_0 {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, codes) = scaled_group::<Linear<16>, L, 32>(&Prepared::new::<L>(weights, importance));
        let (codes, fifth) = pack(&codes);
        Self { d, fifth, codes }
    }
}

impl Recode for Q5_0 {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(-16.0, 15.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        (self.codes, self.fifth) = pack(codes.first());
    }
}
