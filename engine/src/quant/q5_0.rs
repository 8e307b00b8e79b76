//! Q5_0: 32 weights, one scale, 5 bits each. 5.5 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..6    fifth bits (u32): bit i belongs to weight i
//! byte  6..22   low 4 bits: byte 6+j holds weight j in its low and 16+j in its high half
//!               weight = d * (code - 16)
//! ```

use super::{Block, Widen, bits, float};
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
