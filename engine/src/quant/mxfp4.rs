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

use super::search::{Codebook, Prepared, power_of_two_group};
use super::{Block, Quantize, Widen, bits};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};

/// Twice the values of E2M1, which makes them whole numbers. Code 8, minus zero, counts as zero.
pub(crate) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Mxfp4 {
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
        W::look_up(DOUBLED, codes);
        scales[0] = half_scale(self.exponent);
    }
}

/// [`DOUBLED`] as the codes of a search.
struct E2m1;

impl Codebook for E2m1 {
    const EXTREME: f32 = -12.0;
    const STEP: f32 = 1.0;
    #[inline(always)]
    fn nearest<L: Lanes>(value: L) -> L {
        let zero = L::splat(0.0);
        let magnitude = value.max(zero - value);
        let mut nearest = zero;
        for pair in DOUBLED[..8].array_windows() {
            let [low, high] = pair.map(|value| value as f32);
            nearest = magnitude.if_above(L::splat((low + high) / 2.0), L::splat(high), nearest);
        }
        zero.if_above(value, zero - nearest, nearest)
    }
}

/// The code of a doubled value.
#[inline(always)]
fn code_of(value: i8) -> u8 {
    let index: u8 = DOUBLED[..8].iter().map(|&other| u8::from(other < value.abs())).sum();
    index | u8::from(value < 0) << 3
}

impl Quantize for Mxfp4 {
    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let (exponent, codes) =
            power_of_two_group::<E2m1, L, 32>(&Prepared::new::<L>(weights, importance), half_scale);
        Self { exponent, codes: bits::join_nibbles(&codes.map(code_of)) }
    }
}
