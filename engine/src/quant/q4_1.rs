//! Q4_1: 32 weights, one scale, one offset, 4 bits each. 5 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..4    offset m (f16)
//! byte  4..20   codes, 4 bits: byte 4+j holds weight j in its low and 16+j in its high half
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
pub(super) struct Q4_1 {
    d: f16,
    m: f16,
    codes: [u8; 16],
}
const _: () = assert!(size_of::<Q4_1>() == 20);

impl Block for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const ID: u32 = 3;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        bits::nibbles(&self.codes, bits::array(codes));
        scales[0] = W::f16(self.d);
        mins[0] = -W::f16(self.m);
    }
}

#[inline(always)]
fn pack(codes: &[i8; 32]) -> [u8; 16] {
    bits::join_nibbles(&codes.map(|code| code as u8))
}

impl Quantize for Q4_1 {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let group = affine_group::<L, 32>(&Prepared::new::<L>(weights, importance), 15.0);
        Self { d: group.d, m: group.m, codes: pack(&group.codes) }
    }
}

impl Recode for Q4_1 {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(0.0, 15.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.codes = pack(codes.first());
    }
}
