//! How each format's blocks are read out of a panel: scales of sixteen rows in the lanes, four codes per lane.
//!
//! The bits are those of the format's file in `quant/`, whose drawing says where they are; here every 32-bit word of the
//! block is a register, or two, and has the number of its place in a panel (`ORDER`). Nothing here multiplies with inputs.
//!
//! # Safety
//! Functions need the instructions of `W`; `odds` and `words` lead to a packed column of the format's blocks, and words are
//! named by numbers below the block's.

use super::codes::{Bits, Factors, Head, PanelBlock, word};
use super::words::{Words, in_all_bytes, instructions};
use crate::quant::{IQ4_VALUES, Iq4Nl, Iq4Xs, MXFP4_VALUES, Mxfp4, Q2K, Q3K, Q4_0, Q4K, Q5K, Q6K, Q8_0};
use std::ops::Range;

instructions! {
    /// Four words that follow each other.
    fn four_words<W: Words>(words: *const u8, first: usize) -> [W; 4] {
        [word(words, first), word(words, first + 1), word(words, first + 2), word(words, first + 3)]
    }
    /// A byte of each word, from 0 up.
    fn byte<W: Words>(word: W, number: usize) -> W { word.right(8 * number as i32).and(W::splat(255)) }
    /// A byte of each word with its sign.
    fn signed_byte<W: Words>(word: W, number: usize) -> W { word.left(24 - 8 * number as i32).right_signed(24) }
    /// Numbers of six bits in every byte: the lower four from one word, the upper two from another.
    fn join<W: Words>(low: W, upper: W) -> W { low.and(in_all_bytes(15)).or_masked(upper, in_all_bytes(0x30)) }
    /// The F16 numbers in the high halves of all words.
    fn high_f16<W: Words>(word: W) -> W::Floats { word.right(16).low_f16() }
    /// `scale * number`.
    fn scaled<W: Words>(scale: W::Floats, number: W) -> W::Floats { W::times(scale, number.to_floats()) }
    /// Factors of a group that has no min.
    fn scales_only<W: Words>(scales: W::Floats) -> Factors<W> { Factors { scales, mins: W::zero() } }
}

/// Head of Q4_K and Q5_K: two F16 numbers and twelve bytes of scales and mins.
pub(super) struct ScalesMins<W: Words> {
    d: W::Floats,
    dmin: W::Floats,
    /// Of groups 0..4 and 4..8, a byte each.
    scales: [W; 2],
    mins: [W; 2],
}

impl<W: Words> Head<W> for ScalesMins<W> {
    instructions! {
        fn read(_odds: *const u8, words: *const u8) -> Self {
            let (both, scales, mins, rest): (W, W, W, W) =
                (word(words, 0), word(words, 1), word(words, 2), word(words, 3));
            let six = in_all_bytes(63);
            Self {
                d: both.low_f16(),
                dmin: high_f16(both),
                scales: [scales.and(six), join(rest, scales.right(2))],
                mins: [mins.and(six), join(rest.right(4), mins.right(2))],
            }
        }
        fn factors(&self, group: usize) -> Factors<W> {
            let (half, number) = (group / 4, group % 4);
            Factors {
                scales: scaled(self.d, byte(self.scales[half], number)),
                mins: scaled(self.dmin, byte(self.mins[half], number)),
            }
        }
    }
}

impl PanelBlock for Q4K {
    type Head<W: Words> = ScalesMins<W>;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        Bits { word: 4 + 8 * (group / 2) + quad, right: 4 * (group % 2) as i32, mask: 15 }
    }
}

impl PanelBlock for Q5K {
    const LARGEST: i32 = 31;
    const IS_STREAM: bool = false;
    type Head<W: Words> = ScalesMins<W>;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        Bits { word: 12 + 8 * (group / 2) + quad, right: 4 * (group % 2) as i32, mask: 15 }
    }

    #[inline(always)]
    fn upper(group: usize, quad: usize) -> Option<Bits> {
        Some(Bits { word: 4 + quad, right: group as i32 - 4, mask: 16 })
    }
}

/// How far right the 2-bit codes of Q2_K and Q3_K and the upper bits of Q6_K move: of 128 weights, four groups of 32 stand
/// one above the other in the same words.
#[inline(always)]
fn pair(group: usize) -> i32 {
    2 * (group % 8 / 2) as i32
}

/// Head of Q6_K: the scale, and the words of sixteen signed group scales.
pub(super) struct SignedScales<W: Words>(W::Floats, [W; 4]);

impl<W: Words> Head<W> for SignedScales<W> {
    instructions! {
        fn read(odds: *const u8, words: *const u8) -> Self {
            Self(W::load_f16(odds), four_words(words, 0))
        }
        fn factors(&self, group: usize) -> Factors<W> {
            scales_only(scaled(self.0, signed_byte(self.1[group / 4], group % 4)))
        }
    }
}

impl PanelBlock for Q6K {
    const LARGEST: i32 = 63;
    const BIAS: i32 = 32;
    /// Scales; then, of either half, low and upper bits by turns, and the low bits whose upper ones stand there already.
    const ORDER: &'static [Range<usize>] =
        &[48..52, 0..4, 32..36, 4..8, 36..40, 8..16, 16..20, 40..44, 20..24, 44..48, 24..32];
    const IS_STREAM: bool = false;
    type Head<W: Words> = SignedScales<W>;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        let word = Self::half(group) + [0, 8, 16, 20][group % 4] + quad;
        Bits { word, right: 4 * (group % 8 / 4) as i32, mask: 15 }
    }

    #[inline(always)]
    fn upper(group: usize, quad: usize) -> Option<Bits> {
        let word = Self::half(group) + 4 + 8 * (group % 2) + quad;
        Some(Bits { word, right: pair(group) - 4, mask: 0x30 })
    }
}

impl Q6K {
    /// The first word of the 128 weights that a group belongs to.
    #[inline(always)]
    fn half(group: usize) -> usize {
        4 + 24 * (group / 8)
    }
}

/// Head of Q2_K: two F16 numbers, and the words of sixteen bytes of a scale and a min each.
pub(super) struct Nibbles<W: Words> {
    d: W::Floats,
    dmin: W::Floats,
    both: [W; 4],
}

impl<W: Words> Head<W> for Nibbles<W> {
    instructions! {
        fn read(_odds: *const u8, words: *const u8) -> Self {
            let first: W = word(words, 0);
            Self { d: first.low_f16(), dmin: high_f16(first), both: four_words(words, 1) }
        }
        fn factors(&self, group: usize) -> Factors<W> {
            let both = byte(self.both[group / 4], group % 4);
            Factors {
                scales: scaled(self.d, both.and(W::splat(15))),
                // Moved bits of the scale may stand above.
                mins: scaled(self.dmin, both.right(4).and(W::splat(15))),
            }
        }
        fn whole_scales(&self, group: usize) -> W {
            self.both[group / 4].bytes_in_halves([group % 4; 2]).and(in_all_bytes(15))
        }
        fn whole_mins(&self, pair: usize) -> W {
            let first = pair % 2 * 2;
            self.both[pair / 2].right(4).bytes_in_halves([first, first + 1]).and(in_all_bytes(15))
        }
        fn units(&self) -> Factors<W> {
            Factors { scales: self.d, mins: self.dmin }
        }
    }
}

impl PanelBlock for Q2K {
    const LARGEST: i32 = 3;
    const WHOLE: bool = true; // 3 * 15 at most
    const ORDER: &'static [Range<usize>] = &[20..21, 0..20];
    const IS_STREAM: bool = false;
    type Head<W: Words> = Nibbles<W>;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        let word = 5 + 8 * (group / 8) + 4 * (group % 2) + quad;
        Bits { word, right: pair(group), mask: 3 }
    }
}

/// Head of Q3_K: the scale, and sixteen group scales of six bits, a byte each, 32 too large.
pub(super) struct SixBits<W: Words>(W::Floats, [W; 4]);

impl<W: Words> Head<W> for SixBits<W> {
    instructions! {
        fn read(odds: *const u8, words: *const u8) -> Self {
            let (a, b, upper): (W, W, W) = (word(words, 0), word(words, 1), word(words, 2));
            let scales = [
                join(a, upper.left(4)),
                join(b, upper.left(2)),
                join(a.right(4), upper),
                join(b.right(4), upper.right(2)),
            ];
            Self(W::load_f16(odds), scales)
        }
        fn factors(&self, group: usize) -> Factors<W> {
            let scale = byte(self.1[group / 4], group % 4);
            scales_only(scaled(self.0, scale.subtract(W::splat(32))))
        }
    }
}

impl PanelBlock for Q3K {
    const LARGEST: i32 = 7;
    const BIAS: i32 = 4;
    const STRETCH: usize = 16; // the upper bits' move depends on the place among all
    /// Scales; of the first half low bits and, for both halves, upper bits by turns; low bits of the second.
    const ORDER: &'static [Range<usize>] = &[24..27, 8..12, 0..4, 12..16, 4..8, 16..24];
    const IS_STREAM: bool = false;
    type Head<W: Words> = SixBits<W>;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        let word = if group < 8 { 3 + 8 * (group % 2) } else { 19 + 4 * (group % 2) };
        Bits { word: word + quad, right: pair(group), mask: 3 }
    }

    #[inline(always)]
    fn upper(group: usize, quad: usize) -> Option<Bits> {
        Some(Bits { word: 7 + 8 * (group % 2) + quad, right: (group / 2) as i32 - 2, mask: 4 })
    }
}

/// Head of Q8_0, Q4_0 and IQ4_NL, blocks of one group: an F16 number.
pub(super) struct OneScale<W: Words>(W::Floats);

impl<W: Words> Head<W> for OneScale<W> {
    instructions! {
        fn read(odds: *const u8, _words: *const u8) -> Self {
            Self(W::load_f16(odds))
        }
        fn factors(&self, _group: usize) -> Factors<W> {
            scales_only(self.0)
        }
    }
}

/// Where the 4-bit codes of a group of 32 lie in four words: those of the second half above those of the first.
#[inline(always)]
fn halves(first: usize, quad: usize) -> Bits {
    Bits { word: first + quad % 4, right: 4 * (quad / 4) as i32, mask: 15 }
}

impl PanelBlock for Q8_0 {
    const LARGEST: i32 = 255;
    const BIAS: i32 = 128;
    const STORED_SIGNED: bool = true;
    const ODD_FIRST: bool = true;
    type Head<W: Words> = OneScale<W>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        Bits { word: quad, right: 0, mask: -1 }
    }
}

impl PanelBlock for Q4_0 {
    const BIAS: i32 = 8;
    const ODD_FIRST: bool = true;
    type Head<W: Words> = OneScale<W>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        halves(0, quad)
    }
}

impl PanelBlock for Iq4Nl {
    const LARGEST: i32 = 255;
    const BIAS: i32 = 128;
    const ODD_FIRST: bool = true;
    const VALUES: Option<[i8; 16]> = Some(IQ4_VALUES);
    type Head<W: Words> = OneScale<W>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        halves(0, quad)
    }
}

/// Head of IQ4_XS: the scale, and eight group scales, their upper bits in the high half of a word.
pub(super) struct SplitScales<W: Words> {
    d: W::Floats,
    upper: W,
    low: W,
}

impl<W: Words> Head<W> for SplitScales<W> {
    instructions! {
        fn read(_odds: *const u8, words: *const u8) -> Self {
            Self { d: word::<W>(words, 0).low_f16(), upper: word(words, 0), low: word(words, 1) }
        }
        fn factors(&self, group: usize) -> Factors<W> {
            let group = group as i32;
            let low = self.low.right(4 * group).and(W::splat(15));
            let scale = low.or_masked(self.upper.right(16 + 2 * group - 4), W::splat(0x30));
            scales_only(scaled(self.d, scale.subtract(W::splat(32))))
        }
    }
}

impl PanelBlock for Iq4Xs {
    const LARGEST: i32 = 255;
    const BIAS: i32 = 128;
    const VALUES: Option<[i8; 16]> = Some(IQ4_VALUES);
    type Head<W: Words> = SplitScales<W>;

    #[inline(always)]
    fn low(group: usize, quad: usize) -> Bits {
        halves(2 + 4 * group, quad)
    }
}

/// Head of MXFP4: a power of two.
pub(super) struct Exponent<W: Words>(W::Floats);

impl<W: Words> Head<W> for Exponent<W> {
    instructions! {
        /// 2^(exponent - 128); the two smallest are subnormal, and what the others' bits would be is less than theirs.
        fn read(odds: *const u8, _words: *const u8) -> Self {
            let exponents = W::load_bytes(odds);
            let normal = exponents.subtract(W::splat(1)).left(23);
            let subnormal = exponents.smaller(W::splat(1)).add(W::splat(1)).left(21);
            Self(normal.larger(subnormal).as_floats())
        }
        fn factors(&self, _group: usize) -> Factors<W> {
            scales_only(self.0)
        }
    }
}

impl PanelBlock for Mxfp4 {
    const LARGEST: i32 = 28;
    const BIAS: i32 = 16;
    const ODD_FIRST: bool = true;
    const VALUES: Option<[i8; 16]> = Some(MXFP4_VALUES);
    type Head<W: Words> = Exponent<W>;

    #[inline(always)]
    fn low(_group: usize, quad: usize) -> Bits {
        halves(0, quad)
    }
}
