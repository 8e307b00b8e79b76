//! Q5_1: 32 weights, one scale, one offset, 5 bits each. 6 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..4    offset m (f16)
//! byte  4..8    fifth bits (u32): bit i belongs to weight i
//! byte  8..24   low 4 bits: byte 8+j holds weight j in its low and 16+j in its high half
//!               weight = d * code + m
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Prepared, Scalars, affine_group};
use super::{Block, Quantize, Widen, bits};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Q5_1 {
    d: f16,
    m: f16,
    fifth: [u8; 4],
    codes: [u8; 16],
}
const _: () = assert!(size_of::<Q5_1>() == 24);

impl Block for Q5_1 {
    const NAME: &'static str = "Q5_1";
    const ID: u32 = 7;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        bits::nibbles_and_fifth::<false>(&self.codes, self.fifth, bits::array(codes));
        scales[0] = W::f16(self.d);
        mins[0] = -W::f16(self.m);
    }
}

#[inline(always)]
fn pack(codes: &[i8; 32]) -> ([u8; 16], [u8; 4]) {
    bits::join_nibbles_and_fifth(&codes.map(|code| code as u8))
}

impl Quantize for Q5_1 {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let group = affine_group::<L, 32>(&Prepared::new::<L>(weights, importance), 31.0);
        let (codes, fifth) = pack(&group.codes);
        Self { d: group.d, m: group.m, fifth, codes }
    }
}

impl Recode for Q5_1 {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(0.0, 31.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        (self.codes, self.fifth) = pack(codes.first());
    }
}
