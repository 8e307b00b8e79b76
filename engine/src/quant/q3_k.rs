//! Q3_K: 256 weights in 16 groups of 16, each with a signed 6-bit scale. 3.4375 bits per weight.
//!
//! ```text
//! byte   0..32   third bits: bit i of byte j belongs to weight 32i+j
//! byte  32..96   low 2 bits: byte 32+32n+j holds weights 128n+j, +32, +64, +96 from its low bits up
//! byte  96..108  16 scales, 6 bits each, see `group_scales`
//! byte 108..110  d (f16)       scale of the group scales
//!                weight = (d * (scale - 32)) * (code - 4)
//! ```

use super::{Block, bits, float};
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Q3K {
    third: [u8; 32],
    codes: [u8; 64],
    scales: [u8; 12],
    d: f16,
}
const _: () = assert!(size_of::<Q3K>() == 110);

/// The 16 group scales: bytes 0..8 hold the low 4 bits of scales 0..8 and, in their high halves, 8..16; bytes
/// 8..12 hold the upper 2 bits of scales j, 4+j, 8+j and 12+j from the low bits up.
#[inline(always)]
fn group_scales(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

impl Block for Q3K {
    const NAME: &'static str = "Q3_K";
    const ID: u32 = 11;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let d = float::f16_to_f32(self.d);
        *bits::array(scales) = group_scales(&self.scales).map(|scale| d * scale as f32);
        let halves = self.codes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0);
        for (half, (packed, out)) in halves.enumerate() {
            for j in 0..32 {
                for quarter in 0..4 {
                    let third = self.third[j] >> (4 * half + quarter) & 1;
                    out[j + 32 * quarter] = (packed[j] >> (2 * quarter) & 3 | third << 2) as i8 - 4;
                }
            }
        }
    }
}
