//! IQ4_NL: 32 weights, one scale, 4-bit indices into a table of unevenly spaced values. 4.5 bits per weight.
//!
//! ```text
//! byte  0..2    scale d (f16)
//! byte  2..18   indices, 4 bits: byte 2+j holds weight j in its low and 16+j in its high half
//!               weight = d * VALUES[index]
//! ```

use super::compensate::Recode;
use super::search::{BlockCodes, Codebook, Coder, Prepared, Scalars, scaled_group};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

/// What the 16 indices of IQ4_NL and IQ4_XS stand for: denser near zero, where most weights are.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(crate) struct Iq4Nl {
    d: f16,
    indices: [u8; 16],
}
const _: () = assert!(size_of::<Iq4Nl>() == 18);

impl Block for Iq4Nl {
    const NAME: &'static str = "IQ4_NL";
    const ID: u32 = 20;
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 32] = bits::array(codes);
        bits::nibbles(&self.indices, codes);
        W::look_up(VALUES, codes);
        scales[0] = W::f16(self.d);
    }
}

/// [`VALUES`] as the codes of a search.
pub(super) struct Uneven;

impl Codebook for Uneven {
    const EXTREME: f32 = -127.0;
    const STEP: f32 = 12.0;
    #[inline(always)]
    fn nearest<L: Lanes>(value: L) -> L {
        Scalars::Listed(&VALUES).nearest(value)
    }
}

/// Where a value stands in the table.
#[inline(always)]
pub(super) fn index_of(value: i8) -> u8 {
    VALUES.map(|other| u8::from(other < value)).iter().sum()
}

/// Values of the table as they are stored.
#[inline(always)]
pub(super) fn pack(values: &[i8; 32]) -> [u8; 16] {
    bits::join_nibbles(&values.map(index_of))
}

impl Quantize for Iq4Nl {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, codes) = scaled_group::<Uneven, L, 32>(&Prepared::new::<L>(weights, importance));
        Self { d, indices: pack(&codes) }
    }
}

impl Recode for Iq4Nl {
    const CODER: Coder = Coder::Scalars(Scalars::Listed(&VALUES));

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.indices = pack(codes.first());
    }
}
