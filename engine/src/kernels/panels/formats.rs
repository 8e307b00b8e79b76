//! How each format's blocks are read out of a panel: scales of sixteen rows in the lanes, four codes per lane.
//!
//! The bits are those of the format's file in `quant/`, whose drawing says where they are; here every 32-bit word of the
//! block is a register. Nothing here multiplies.

use super::avx512::{Bits, Factors, Head, PanelBlock};
use super::{PANEL, WORD};
use crate::quant::{IQ4_VALUES, Iq4Nl, Iq4Xs, MXFP4_VALUES, Mxfp4, Q2K, Q3K, Q4_0, Q4K, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;

/// A word of each row's block.
#[inline(always)]
pub(super) unsafe fn word(block: *const u8, number: usize) -> __m512i {
    // SAFETY: callers are compiled for AVX-512 and stay inside their format's block.
    unsafe { _mm512_loadu_si512(block.add(number * WORD * PANEL).cast()) }
}

/// Four words that follow each other.
#[inline(always)]
unsafe fn four_words(block: *const u8, first: usize) -> [__m512i; 4] {
    // SAFETY: as above.
    unsafe { [word(block, first), word(block, first + 1), word(block, first + 2), word(block, first + 3)] }
}

/// Every 32 bits moved right, rotating, so that none is lost: negative counts move left.
#[inline(always)]
pub(super) unsafe fn right(word: __m512i, count: i32) -> __m512i {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { _mm512_rorv_epi32(word, _mm512_set1_epi32(count)) }
}

/// A byte of each word, from 0 up.
#[inline(always)]
unsafe fn byte(word: __m512i, number: usize) -> __m512i {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { _mm512_and_si512(right(word, 8 * number as i32), _mm512_set1_epi32(255)) }
}

/// A byte of each word with its sign.
#[inline(always)]
unsafe fn signed_byte(word: __m512i, number: usize) -> __m512i {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { _mm512_srai_epi32::<24>(right(word, 8 * number as i32 - 24)) }
}

/// Numbers of six bits in every byte: the lower four from one word, the upper two from another.
#[inline(always)]
unsafe fn join(low: __m512i, upper: __m512i) -> __m512i {
    // SAFETY: callers are compiled for AVX-512.
    unsafe {
        let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
        _mm512_or_si512(low, _mm512_and_si512(upper, _mm512_set1_epi8(0x30)))
    }
}

/// The F16 numbers in the low halves of all words.
#[inline(always)]
unsafe fn low_f16(word: __m512i) -> __m512 {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word)) }
}

/// The F16 numbers in the high halves.
#[inline(always)]
unsafe fn high_f16(word: __m512i) -> __m512 {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { low_f16(_mm512_srli_epi32::<16>(word)) }
}

/// The F16 numbers behind so many words.
#[inline(always)]
unsafe fn odd_f16(block: *const u8, words: usize) -> __m512 {
    // SAFETY: callers are compiled for AVX-512; an odd part of two bytes per row stands there.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(block.add(words * WORD * PANEL).cast())) }
}

/// `scale * number`.
#[inline(always)]
unsafe fn scaled(scale: __m512, number: __m512i) -> __m512 {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { _mm512_mul_ps(scale, _mm512_cvtepi32_ps(number)) }
}

/// Factors of a group that has no min.
#[inline(always)]
unsafe fn scales_only(scales: __m512) -> Factors {
    // SAFETY: callers are compiled for AVX-512.
    unsafe { Factors { scales, mins: _mm512_setzero_ps() } }
}

/// Head of Q4_K and Q5_K: two F16 numbers and twelve bytes of scales and mins.
pub(super) struct ScalesMins {
    d: __m512,
    dmin: __m512,
    /// Of groups 0..4 and 4..8, a byte each.
    scales: [__m512i; 2],
    mins: [__m512i; 2],
}

impl Head for ScalesMins {
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: the caller's promises, here and in all of the following.
        unsafe {
            let (scales, mins, rest) = (word(block, 1), word(block, 2), word(block, 3));
            let six = _mm512_set1_epi8(63);
            Self {
                d: low_f16(word(block, 0)),
                dmin: high_f16(word(block, 0)),
                scales: [_mm512_and_si512(scales, six), join(rest, right(scales, 2))],
                mins: [_mm512_and_si512(mins, six), join(right(rest, 4), right(mins, 2))],
            }
        }
    }

    #[inline(always)]
    unsafe fn factors(&self, group: usize) -> Factors {
        let (half, number) = (group / 4, group % 4);
        // SAFETY: as above.
        unsafe {
            Factors {
                scales: scaled(self.d, byte(self.scales[half], number)),
                mins: scaled(self.dmin, byte(self.mins[half], number)),
            }
        }
    }
}

impl PanelBlock for Q4K {
    type Head = ScalesMins;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        Bits { word: 4 + 8 * (group / 2) + quad, right: 4 * (group % 2) as i32, mask: 15 }
    }
}

impl PanelBlock for Q5K {
    type Head = ScalesMins;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        Bits { word: 12 + 8 * (group / 2) + quad, right: 4 * (group % 2) as i32, mask: 15 }
    }

    #[inline(always)]
    fn upper(group: usize, quad: usize) -> Option<Bits> {
        Some(Bits { word: 4 + quad, right: group as i32 - 4, mask: 16 })
    }
}

/// Where the 2-bit codes of Q2_K and Q3_K and the upper bits of Q6_K lie: 128 weights in 8 words from `first` on, four
/// groups of 32 one above the other.
#[inline(always)]
fn pairs(first: usize, group: usize, quad: usize) -> (usize, i32) {
    (first + 8 * (group / 8) + 4 * (group % 2) + quad, 2 * (group % 8 / 2) as i32)
}

/// Head of Q6_K: the scale, and the words of sixteen signed group scales.
pub(super) struct SignedScales(__m512, [__m512i; 4]);

impl Head for SignedScales {
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Self(odd_f16(block, 52), four_words(block, 48)) }
    }

    #[inline(always)]
    unsafe fn factors(&self, group: usize) -> Factors {
        // SAFETY: as above.
        unsafe { scales_only(scaled(self.0, signed_byte(self.1[group / 4], group % 4))) }
    }
}

impl PanelBlock for Q6K {
    const BIAS: i32 = 32;
    type Head = SignedScales;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        let word = 16 * (group / 8) + 4 * (group % 4) + quad;
        Bits { word, right: 4 * (group % 8 / 4) as i32, mask: 15 }
    }

    #[inline(always)]
    fn upper(group: usize, quad: usize) -> Option<Bits> {
        let (word, right) = pairs(32, group, quad);
        Some(Bits { word, right: right - 4, mask: 0x30 })
    }
}

/// Head of Q2_K: two F16 numbers, and the words of sixteen bytes of a scale and a min each.
pub(super) struct Nibbles {
    d: __m512,
    dmin: __m512,
    both: [__m512i; 4],
}

impl Head for Nibbles {
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: as above.
        unsafe {
            let last = word(block, 20);
            Self { d: low_f16(last), dmin: high_f16(last), both: four_words(block, 0) }
        }
    }

    #[inline(always)]
    unsafe fn factors(&self, group: usize) -> Factors {
        // SAFETY: as above.
        unsafe {
            let both = byte(self.both[group / 4], group % 4);
            Factors {
                scales: scaled(self.d, _mm512_and_si512(both, _mm512_set1_epi32(15))),
                mins: scaled(self.dmin, _mm512_srli_epi32::<4>(both)),
            }
        }
    }
}

impl PanelBlock for Q2K {
    type Head = Nibbles;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        let (word, right) = pairs(4, group, quad);
        Bits { word, right, mask: 3 }
    }
}

/// Head of Q3_K: the scale, and sixteen group scales of six bits, a byte each, 32 too large.
pub(super) struct SixBits(__m512, [__m512i; 4]);

impl Head for SixBits {
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: as above.
        unsafe {
            let (a, b, upper) = (word(block, 24), word(block, 25), word(block, 26));
            let scales = [
                join(a, right(upper, -4)),
                join(b, right(upper, -2)),
                join(right(a, 4), upper),
                join(right(b, 4), right(upper, 2)),
            ];
            Self(odd_f16(block, 27), scales)
        }
    }

    #[inline(always)]
    unsafe fn factors(&self, group: usize) -> Factors {
        // SAFETY: as above.
        unsafe {
            let scale = byte(self.1[group / 4], group % 4);
            scales_only(scaled(self.0, _mm512_sub_epi32(scale, _mm512_set1_epi32(32))))
        }
    }
}

impl PanelBlock for Q3K {
    const BIAS: i32 = 4;
    type Head = SixBits;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        let (word, right) = pairs(8, group, quad);
        Bits { word, right, mask: 3 }
    }

    #[inline(always)]
    fn upper(group: usize, quad: usize) -> Option<Bits> {
        Some(Bits { word: 4 * (group % 2) + quad, right: (group / 2) as i32 - 2, mask: 4 })
    }
}

/// Head of Q8_0, Q4_0 and IQ4_NL, blocks of one group: an F16 number, behind so many words once packed.
pub(super) struct OneScale<const WORDS: usize>(__m512);

impl<const WORDS: usize> Head for OneScale<WORDS> {
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Self(odd_f16(block, WORDS)) }
    }

    #[inline(always)]
    unsafe fn factors(&self, _group: usize) -> Factors {
        // SAFETY: as above.
        unsafe { scales_only(self.0) }
    }
}

/// Where the 4-bit codes of a group of 32 lie in four words: those of the second half above those of the first.
#[inline(always)]
fn halves(first: usize, quad: usize) -> Bits {
    Bits { word: first + quad % 4, right: 4 * (quad / 4) as i32, mask: 15 }
}

impl PanelBlock for Q8_0 {
    const BIAS: i32 = 128;
    const ODD_FIRST: bool = true;
    type Head = OneScale<8>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        Bits { word: quad, right: 0, mask: -1 }
    }

    #[inline(always)]
    unsafe fn turn(codes: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
    }
}

impl PanelBlock for Q4_0 {
    const BIAS: i32 = 8;
    const ODD_FIRST: bool = true;
    type Head = OneScale<4>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        halves(0, quad)
    }
}

impl PanelBlock for Iq4Nl {
    const BIAS: i32 = 128;
    const ODD_FIRST: bool = true;
    const VALUES: Option<[i8; 16]> = Some(IQ4_VALUES);
    type Head = OneScale<4>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        halves(0, quad)
    }
}

/// Head of IQ4_XS: the scale, and eight group scales, their upper bits in the high half of a word.
pub(super) struct SplitScales {
    d: __m512,
    upper: __m512i,
    low: __m512i,
}

impl Head for SplitScales {
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Self { d: low_f16(word(block, 0)), upper: word(block, 0), low: word(block, 1) } }
    }

    #[inline(always)]
    unsafe fn factors(&self, group: usize) -> Factors {
        let group = group as i32;
        // SAFETY: as above.
        unsafe {
            let low = _mm512_and_si512(right(self.low, 4 * group), _mm512_set1_epi32(15));
            let upper = _mm512_and_si512(right(self.upper, 16 + 2 * group - 4), _mm512_set1_epi32(0x30));
            let scale = _mm512_sub_epi32(_mm512_or_si512(low, upper), _mm512_set1_epi32(32));
            scales_only(scaled(self.d, scale))
        }
    }
}

impl PanelBlock for Iq4Xs {
    const BIAS: i32 = 128;
    const VALUES: Option<[i8; 16]> = Some(IQ4_VALUES);
    type Head = SplitScales;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        halves(2 + 4 * group, quad)
    }
}

/// Head of MXFP4: a power of two.
pub(super) struct Exponent(__m512);

impl Head for Exponent {
    /// 2^(exponent - 128); the two smallest are subnormal.
    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        // SAFETY: as above; sixteen exponents follow four words.
        unsafe {
            let exponents = _mm_loadu_si128(block.add(4 * WORD * PANEL).cast());
            let exponents = _mm512_cvtepu8_epi32(exponents);
            let (one, two) = (_mm512_set1_epi32(1), _mm512_set1_epi32(2));
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponents, one));
            let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), exponents);
            let is_subnormal = _mm512_cmplt_epu32_mask(exponents, two);
            Self(_mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_subnormal, subnormal)))
        }
    }

    #[inline(always)]
    unsafe fn factors(&self, _group: usize) -> Factors {
        // SAFETY: as above.
        unsafe { scales_only(self.0) }
    }
}

impl PanelBlock for Mxfp4 {
    const BIAS: i32 = 16;
    const ODD_FIRST: bool = true;
    const VALUES: Option<[i8; 16]> = Some(MXFP4_VALUES);
    type Head = Exponent;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        halves(0, quad)
    }
}

/// Values of a table at 4-bit indices, `bias` larger.
#[inline(always)]
pub(super) unsafe fn look_up(values: [i8; 16], bias: i32, indices: __m512i) -> __m512i {
    let table = values.map(|value| value.wrapping_add(bias as i8));
    // SAFETY: callers are compiled for AVX-512; the table is an array of 128 bits.
    unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), indices) }
}
