//! IQ2_XS: 256 weights in 16 groups of 16 with a 4-bit scale; 8 weights are one of 512 points with an even number of
//! minus signs. 2.3125 bits per weight.
//!
//! ```text
//! byte  0..2   d (f16)      scale of the group scales
//! byte  2..66  32 u16: number j is about weights 8j..8j+8. Bits 0..9 are the index of the point; bits 9..16 the
//!              signs of the first seven, 1 for minus; the eighth sign makes the minus signs even
//! byte 66..74  scales, 4 bits: byte 66+i holds group 2i in its low and 2i+1 in its high half
//!              weight = (d * (scale + 0.5) / 4) * sign * value of the point (8, 25 or 43)
//! ```

use super::compensate::Recode;
use super::grids::{self, LEVELS_2};
use super::search::{BlockCodes, Coder, Codes, Lattice, Octet, Points, Signs, lattice_block};
use super::{Block, Quantize, Widen, bits, float};
use crate::simd::Lanes;
use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

#[repr(C)]
#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
pub(super) struct Iq2Xs {
    d: f16,
    octets: [[u8; 2]; 32],
    scales: [u8; 8],
}
const _: () = assert!(size_of::<Iq2Xs>() == 74);

static POINTS: [[i8; 8]; 512] = grids::IQ2_XS.values(&LEVELS_2);

static LATTICE: Lattice = Lattice {
    points: Points {
        lows: &grids::IQ2_XS.lows(8, 3),
        starts: &grids::IQ2_XS.starts::<82>(8, 3),
        levels: &LEVELS_2,
        codes: Codes::Eight(&POINTS),
        values: 8,
    },
    signs: Signs::Even,
    unit: 0.125,
    top: 15,
    octets: 2,
    rounds: 2,
};

impl Block for Iq2Xs {
    const NAME: &'static str = "IQ2_XS";
    const ID: u32 = 17;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;

    fn points() -> Vec<u64> {
        grids::words(&POINTS)
    }

    #[inline(always)]
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let codes: &mut [i8; 256] = bits::array(codes);
        let d = W::f16(self.d);
        *bits::array(scales) = bits::halves(&self.scales).map(|scale| d * (0.5 + scale as f32) * 0.25);
        for (octet, out) in self.octets.iter().zip(codes.as_chunks_mut::<8>().0) {
            let octet = u16::from_le_bytes(*octet);
            *out = bits::signed(POINTS[octet as usize & 511], bits::even((octet >> 9) as u8));
        }
    }
}

#[inline(always)]
fn pack(octets: &[Octet; 32]) -> [[u8; 2]; 32] {
    octets.map(|octet| (octet.points[0] | u16::from(octet.signs & 127) << 9).to_le_bytes())
}

impl Quantize for Iq2Xs {
    const STRETCH: Option<fn(&mut Self, f32)> = Some(|block, factor| float::stretch(&mut block.d, factor));

    #[inline(always)]
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self {
        let block = lattice_block::<L>(&LATTICE, weights, importance);
        Self { d: block.d, octets: pack(&block.octets), scales: bits::join_halves(&block.scales) }
    }
}

impl Recode for Iq2Xs {
    const CODER: Coder = Coder::Octets(&LATTICE);

    #[inline(always)]
    fn recode(&mut self, codes: &BlockCodes) {
        self.octets = pack(&codes.octets);
    }
}
