//! Q8_0: 32 weights, one scale, a signed byte each. 8.5 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..34   codes (i8)          weight = d * code
//! ```

use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q8_0 {
    d: f16,
    codes: [i8; 32],
}
const _: () = assert!(size_of::<Q8_0>() == 34);

impl Block for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const ID: u32 = 8;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        *bits::array(codes) = self.codes;
        scales[0] = W::f16(self.d);
    }
}

impl Quantize for Q8_0 {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], _importance: Option<&[f32]>) -> Self {
        let weights: [f32; 32] = float::finite(weights);
        let d = float::fit_f16(float::largest_magnitude(&weights) / 127.0);
        let inverse = float::inverse(d);
        let codes = weights.map(|weight| float::round((weight * inverse).clamp(-127.0, 127.0)) as i8);
        Self { d: float::f16_from_f32(d), codes }
    }
}
