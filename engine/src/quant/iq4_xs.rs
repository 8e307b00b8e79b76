//! IQ4_XS: 256 weights in 8 groups of 32 with a signed 6-bit scale; indices as in IQ4_NL. 4.25 bits per weight.
//!
//! ```text
//! byte   0..2    d (f16)       scale of the group scales
//! byte   2..4    upper 2 bits of the scales (u16): bits 2i and 2i+1 belong to group i
//! byte   4..8    low 4 bits of the scales: byte 4+i holds group 2i in its low and 2i+1 in its high half
//! byte   8..136  indices, 4 bits: byte 8+16i+j holds weight 32i+j in its low and 32i+16+j in its high half
//!                weight = (d * (scale - 32)) * VALUES[index]
//! ```

use super::compensate::Recode;
use super::iq4_nl::{self, Uneven, VALUES};
use super::search::{BlockCodes, Coder, Prepared, Scalars, scaled_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Iq4Xs {
    d: f16,
    scales_upper: [u8; 2],
    scales_low: [u8; 4],
    indices: [u8; 128],
}
const _: () = assert!(size_of::<Iq4Xs>() == 136);

impl Block for Iq4Xs {
    const NAME: &'static str = "IQ4_XS";
    const ID: u32 = 23;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let scales: &mut [f32; 8] = bits::array(scales);
        let d = W::f16(self.d);
        let (upper, low) = (u16::from_le_bytes(self.scales_upper), u32::from_le_bytes(self.scales_low));
        for (i, scale) in scales.iter_mut().enumerate() {
            let code = (low >> (4 * i) & 15) as u8 | ((upper >> (2 * i) & 3) << 4) as u8;
            *scale = d * (code as i8 - 32) as f32;
        }
        for (packed, out) in self.indices.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<32>().0) {
            bits::nibbles(packed, out);
        }
        W::look_up(VALUES, codes);
    }
}

#[inline(always)]
fn pack(values: &[i8; 256]) -> [u8; 128] {
    let mut packed = [0; 128];
    for (values, packed) in values.as_chunks::<32>().0.iter().zip(packed.as_chunks_mut::<16>().0) {
        *packed = iq4_nl::pack(values);
    }
    packed
}

impl Quantize for Iq4Xs {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = scaled_block::<Uneven, L, 8, 32>(&Prepared::new::<L>(weights, importance), 32.0);
        let (mut upper, mut low) = (0u16, 0u32);
        for (i, scale) in block.scales.iter().enumerate() {
            let code = (scale + 32) as u8;
            low |= u32::from(code & 15) << (4 * i);
            upper |= u16::from(code >> 4) << (2 * i);
        }
        let indices = pack(&block.codes);
        Self { d: block.d, scales_upper: upper.to_le_bytes(), scales_low: low.to_le_bytes(), indices }
    }
}

impl Recode for Iq4Xs {
    const CODER: Coder = Coder::Scalars(Scalars::Listed(&VALUES));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.indices = pack(&codes.scalars);
    }
}
