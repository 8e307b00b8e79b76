//! TQ1_0: 256 weights of -1, 0 and 1 with one scale, five to a byte. 1.6875 bits per weight.
//!
//! ```text
//! byte  0..32  byte j holds weights j, 32+j, 64+j, 96+j and 128+j
//! byte 32..48  byte 32+j holds weights 160+j, 176+j, 192+j, 208+j and 224+j
//! byte 48..52  byte 48+j holds weights 240+j, 244+j, 248+j and 252+j
//! byte 52..54  d (f16)      scale
//!              weight = d * (digit - 1)
//! ```
//!
//! A byte is a fraction of 256 whose digits to the base 3 are the weights: digit n is the whole part of 3 times what
//! is left of the byte times 3^n. It is rounded up, so that no digit is lost.

use super::search::{Prepared, ternary_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Tq10 {
    first: [u8; 32],
    second: [u8; 16],
    third: [u8; 4],
    d: f16,
}
const _: () = assert!(size_of::<Tq10>() == 54);

/// The digits of `N` bytes, one after the other.
#[inline(always)]
fn split<const N: usize>(bytes: &[u8; N], codes: &mut [i8]) {
    let mut left = *bytes;
    for codes in codes.as_chunks_mut::<N>().0 {
        for (code, left) in codes.iter_mut().zip(&mut left) {
            let three = u16::from(*left) * 3;
            *code = (three >> 8) as i8 - 1;
            *left = three as u8;
        }
    }
}

/// The reverse of [`split`]. `N` bytes hold up to five digits each.
#[inline(always)]
fn join<const N: usize>(codes: &[i8]) -> [u8; N] {
    let mut sums = [0u16; N];
    let digits = codes.as_chunks::<N>().0;
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = digits.iter().fold(0, |sum, digit| sum * 3 + (digit[i] + 1) as u16);
    }
    let missing = 3u16.pow(5 - digits.len() as u32);
    sums.map(|sum| ((sum * missing * 256).div_ceil(243)) as u8)
}

impl Block for Tq10 {
    const NAME: &'static str = "TQ1_0";
    const ID: u32 = 34;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        split(&self.first, &mut codes[..160]);
        split(&self.second, &mut codes[160..240]);
        split(&self.third, &mut codes[240..]);
        *bits::array(scales) = [W::f16(self.d); 8];
    }
}

impl Quantize for Tq10 {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, codes) = ternary_block::<L>(&Prepared::new::<L>(weights, importance));
        Self { first: join(&codes[..160]), second: join(&codes[160..240]), third: join(&codes[240..]), d }
    }
}
