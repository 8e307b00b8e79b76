//! Q8_0: 32 weights, one scale, a signed byte each. 8.5 bits per weight.
//!
//! ```text
//! byte  0..2   scale d (f16)
//! byte  2..34  codes (i8)          weight = d * code
//! ```

use super::{Block, Quantize};
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Q8_0 {
    scale: f16,
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
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        codes[..32].copy_from_slice(&self.codes);
        scales[0] = self.scale.to_f32();
    }
}

impl Quantize for Q8_0 {
    fn quantize(weights: &[f32], _importance: Option<&[f32]>) -> Self {
        let largest = weights.iter().fold(0f32, |largest, w| largest.max(w.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut codes = [0i8; 32];
        for (code, weight) in codes.iter_mut().zip(weights) {
            *code = (weight * inverse).round() as i8;
        }
        Self { scale: f16::from_f32(scale), codes }
    }
}
