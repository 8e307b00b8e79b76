//! Q4_K: 256 weights in 8 groups of 32, each with a 6-bit scale and a 6-bit min. 4.5 bits per weight.
//!
//! ```text
//! byte   0..2    d (f16)       scale of the group scales
//! byte   2..4    dmin (f16)    scale of the group mins
//! byte   4..16   8 scales and 8 mins, 6 bits each, see `scale_min`
//! byte  16..144  codes, 4 bits: byte 32i+j holds weight 64i+j in its low and 64i+32+j in its high half
//!                weight = (d * scale) * code - (dmin * min)
//! ```

use super::Block;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Q4K {
    d: f16,
    dmin: f16,
    scales: [u8; 12],
    codes: [u8; 128],
}
const _: () = assert!(size_of::<Q4K>() == 144);

/// The 6-bit scale and min of group `i` (0..8) of Q4_K and Q5_K.
///
/// Bytes 0..4 hold the scales and 4..8 the mins of groups 0..4 in their low 6 bits; groups 4..8 have their low
/// 4 bits in bytes 8..12 and their upper 2 bits in the top of bytes 0..8.
#[inline(always)]
pub(super) fn scale_min(packed: &[u8; 12], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let low = packed[i + 4];
        ((low & 15) | (packed[i - 4] >> 6 << 4), (low >> 4) | (packed[i] >> 6 << 4))
    }
}

impl Block for Q4K {
    const NAME: &'static str = "Q4_K";
    const ID: u32 = 12;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for i in 0..8 {
            let (scale, min) = scale_min(&self.scales, i);
            scales[i] = d * scale as f32;
            mins[i] = dmin * min as f32;
        }
        for (packed, out) in self.codes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
            for j in 0..32 {
                out[j] = (packed[j] & 15) as i8;
                out[j + 32] = (packed[j] >> 4) as i8;
            }
        }
    }
}
