//! MXFP4: 32 weights as 4-bit floats (E2M1) with one power of two as scale. 4.25 bits per weight.
//!
//! ```text
//! byte  0       scale: 2^(e - 127), E8M0
//! byte  1..17   codes, E2M1: byte 1+j holds weight j in its low and 16+j in its high half
//!               weight = 2^(e - 128) * DOUBLED[code]
//! ```
//!
//! Source: OCP Microscaling Formats (MX) Specification 1.0. The spec reads e = 255 as NaN; llama.cpp reads it as
//! the next power of two, and so do we.

use super::{Block, Widen, bits};
use bytemuck::{AnyBitPattern, NoUninit};

/// Twice the values of E2M1, which makes them whole numbers. Code 8, minus zero, counts as zero.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Mxfp4 {
    exponent: u8,
    codes: [u8; 16],
}
const _: () = assert!(size_of::<Mxfp4>() == 17);

/// 2^(exponent - 128): half of what E8M0 says, exact also where the result is subnormal.
#[inline(always)]
fn half_scale(exponent: u8) -> f32 {
    let exponent = exponent as u32;
    let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
    f32::from_bits(bits)
}

impl Block for Mxfp4 {
    const NAME: &'static str = "MXFP4";
    const ID: u32 = 39;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 32] = bits::array(codes);
        bits::nibbles(&self.codes, codes);
        bits::look_up(DOUBLED, codes);
        scales[0] = half_scale(self.exponent);
    }
}
