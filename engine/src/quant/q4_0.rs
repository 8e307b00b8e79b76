//! Q4_0: 32 weights, one scale, 4 bits each. 4.5 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..18   codes, 4 bits: byte 2+j holds weight j in its low and 16+j in its high half
//!               weight = d * (code - 8)
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Coder, Linear, Prepared, Scalars, scaled_group};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Q4_0 {
    d: f16,
    codes: [u8; 16],
}
const _: () = assert!(size_of::<Q4_0>() == 18);

impl Block for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const ID: u32 = 2;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 32] = bits::array(codes);
        bits::nibbles(&self.codes, codes);
        codes.iter_mut().for_each(|code| *code -= 8);
        scales[0] = W::f16(self.d);
    }
}

/// Codes from -8 to 7 as they are stored.
#[inline(always)]
fn pack(codes: &[i8; 32]) -> [u8; 16] {
    bits::join_nibbles(&codes.map(|code| (code + 8) as u8))
}

impl Quantize for Q4_0 {
    /// Without importance, the weight of largest magnitude becomes code -8 whatever its sign, as in llama.cpp.
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        if importance.is_some() {
            let (d, codes) = scaled_group::<Linear<8>, L, 32>(&Prepared::new::<L>(weights, importance));
            return Self { d, codes: pack(&codes) };
        }
        let weights: [f32; 32] = float::finite(weights);
        let extreme = weights.iter().fold(weights[0], |most, &w| if w.abs() > most.abs() { w } else { most });
        let d = float::fit_f16(extreme / -8.0);
        let inverse = float::inverse(d);
        let codes = weights.map(|weight| ((weight * inverse + 8.5) as u8).min(15));
        Self { d: float::f16_from_f32(d), codes: bits::join_nibbles(&codes) }
    }
}

impl Recode for Q4_0 {
    const CODER: Coder = Coder::Scalars(Scalars::Whole(-8.0, 7.0));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.codes = pack(codes.first());
    }
}
