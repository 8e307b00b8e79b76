//! What a format says of its panels, how that meets a set of instructions, and codes and factors out of a block.
//!
//! `formats.rs` has the formats; `steps.rs` hands codes and factors to products, step by step.

use super::super::matrix::PANEL;
use super::packing::{WORD, words_come_first};
use super::words::{Words, in_all_bytes};
use crate::quant::Block;
use std::ops::Range;

/// Where bits of four neighbouring codes are: in every byte of a word, by its place in a panel, after a move to the right;
/// upper bits may have to move left, by a negative count.
pub(super) struct Bits {
    pub(super) word: usize,
    pub(super) right: i32,
    pub(super) mask: i8,
}

/// A format as its panels are read.
pub(super) trait PanelBlock: Block {
    /// The largest code, read as numbers from 0 up.
    const LARGEST: i32 = 15;
    /// How much larger than the weights' codes the ones from 0 up are: a power of two for formats without mins, which
    /// have codes below zero, and 0 for the others.
    const BIAS: i32 = 0;
    /// Whether codes times their groups' scales are bytes from 0 up.
    const WHOLE: bool = false;
    /// Whether codes are stored with their sign; others are stored with their bias.
    const STORED_SIGNED: bool = false;
    /// See [`Packing`](super::packing::Packing), here and below.
    const ODD_FIRST: bool = false;
    #[allow(clippy::single_range_in_vec_init)] // a list of one range is meant
    const ORDER: &'static [Range<usize>] = &[0..size_of::<Self>() / WORD];
    /// What 4-bit codes stand for, where they are indices.
    const VALUES: Option<[i8; 16]> = None;
    /// Whether a pass leaves every word soon after it came, so that memory is read as one stream. Bits of groups that are
    /// far from each other would share words.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "AVX-512 alone leaves a stream to the processor")
    )]
    const IS_STREAM: bool = true;
    /// How many steps are written out together, where a block has more: numbers that depend on a step's place among
    /// them are constants.
    const STRETCH: usize = 8;
    /// What all groups share.
    type Head<W: Words>: Head<W>;

    /// The low bits of the group's codes from `4 * quad` on.
    fn low(group: usize, quad: usize) -> Bits;

    /// The bits above them.
    #[inline(always)]
    fn upper(_group: usize, _quad: usize) -> Option<Bits> {
        None
    }
}

/// What all groups of sixteen blocks share, in registers.
pub(super) trait Head<W: Words>: Sized {
    /// Out of a packed column of blocks: its bytes that make no whole word, and its words.
    ///
    /// # Safety
    /// Here and below: needs the instructions of `W`, and whole blocks where there are pointers.
    unsafe fn read(odds: *const u8, words: *const u8) -> Self;

    /// A group's scales and mins.
    unsafe fn factors(&self, group: usize) -> Factors<W>;

    /// A group's scales as whole numbers, in both halves of each word: two codes are multiplied at once. Here and below
    /// only formats that are [`PanelBlock::WHOLE`] are asked.
    unsafe fn whole_scales(&self, _group: usize) -> W {
        unreachable!("the format has no whole scales")
    }

    /// The mins of two neighbouring groups as whole numbers, the first one's in the lower halves.
    unsafe fn whole_mins(&self, _pair: usize) -> W {
        unreachable!("the format has no whole mins")
    }

    /// What whole scales and whole mins are multiples of.
    unsafe fn units(&self) -> Factors<W> {
        unreachable!("the format has no whole scales")
    }
}

/// A packed column of blocks that begins `offset` bytes behind its matrix: what all groups share, and the words.
///
/// # Safety
/// Needs the instructions of `W`, and whole blocks.
#[inline(always)]
pub(super) unsafe fn open<B: PanelBlock, W: Words>(
    block: *const u8,
    offset: usize,
) -> (B::Head<W>, *const u8) {
    let odd_bytes = size_of::<B>() % WORD * PANEL;
    // SAFETY: sixteen blocks are their words and their odd bytes, whichever come first.
    unsafe {
        let (odds, words) = if odd_bytes == 0 || words_come_first(offset) {
            (block.add(size_of::<B>() * PANEL - odd_bytes), block)
        } else {
            (block, block.add(odd_bytes))
        };
        (B::Head::read(odds, words), words)
    }
}

/// Scales and mins of a group, one per row.
pub(super) struct Factors<W: Words> {
    pub(super) scales: W::Floats,
    /// Zero for formats without.
    pub(super) mins: W::Floats,
}

/// How a format's codes meet a set of instructions: constants of every pass.
///
/// | formats                  | AVX2          | with VNNI     | AVX-512           | NEON              |
/// |--------------------------|---------------|---------------|-------------------|-------------------|
/// | Q2_K                     | whole blocks  | sums          | whole, scaled     | whole, scaled     |
/// | Q4_K, Q5_K               | sums          | sums          | sums              | sums              |
/// | Q4_0, Q3_K, Q6_K, MXFP4  | offsets       | offsets       | offsets           | offsets           |
/// | Q8_0, IQ4_NL, IQ4_XS     | signs         | offsets       | offsets           | signs             |
#[derive(Clone, Copy)]
pub(super) struct Scheme {
    /// Columns of a step.
    pub(super) columns: usize,
    /// Steps of a block.
    pub(super) steps: usize,
    /// Steps that are written out together.
    pub(super) stretch: usize,
    /// Whole blocks: added up as whole numbers, their scales included.
    pub(super) is_whole: bool,
    /// Scaled: inputs meet codes times their whole scales.
    pub(super) is_scaled: bool,
    /// Sums: mins meet the inputs' sums of groups as floats.
    pub(super) reads_sums: bool,
    /// Offsets: codes are too large by their bias, which the inputs' offsets take away.
    pub(super) reads_offsets: bool,
    /// Signs: codes keep theirs, they are too large for products from 0 up.
    pub(super) keeps_signs: bool,
}

impl Scheme {
    /// That of a format and a set.
    pub(super) const fn of<B: PanelBlock, W: Words>() -> Self {
        assert!(!B::WHOLE || (B::BIAS == 0 && B::GROUP == 16 && B::LEN == B::INPUTS.neighbours()));
        let is_whole = B::WHOLE && W::SUMS_BLOCKS;
        let keeps_signs = B::LARGEST > W::LARGEST_CODE;
        let columns = if is_whole { 2 * B::GROUP } else { B::GROUP };
        let steps = B::LEN / columns;
        let reads_sums = B::HAS_MIN && !is_whole;
        let most = if reads_sums && W::HALVES_BLOCKS { B::STRETCH / 2 } else { B::STRETCH };
        let stretch = if steps < most { steps } else { most };
        assert!(steps.is_multiple_of(stretch));
        Self {
            columns,
            steps,
            stretch,
            is_whole,
            is_scaled: B::WHOLE && W::SCALES_CODES,
            reads_sums,
            reads_offsets: B::BIAS > 0 && !keeps_signs,
            keeps_signs,
        }
    }
}

/// Does something for numbers from 0 up to a limit of at most 16, written out: with constant numbers the compiler folds
/// places and shifts, which makes a third of the speed, and from a loop with many inputs it would make what are constants
/// again and again.
macro_rules! unrolled {
    ($limit:expr, |$number:ident| $body:expr) => {
        unrolled!(@ $limit, $number, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $limit:expr, $number:ident, $body:expr, $($value:literal)*) => {
        $(if $value < $limit {
            let $number: usize = $value;
            $body
        })*
    };
}
pub(super) use unrolled;

/// Does something for every step of a block, of which a stretch is written out.
macro_rules! each_step {
    ($block:ty, $words:ty, |$step:ident| $body:expr) => {
        use $crate::kernels::panels::codes::{Scheme as S, unrolled};
        for first in (0..const { S::of::<$block, $words>().steps })
            .step_by(const { S::of::<$block, $words>().stretch })
        {
            unrolled!(const { S::of::<$block, $words>().stretch }, |number| {
                let $step: usize = first + number;
                $body
            });
        }
    };
}
pub(super) use each_step;

/// A word of each row's block.
///
/// # Safety
/// Needs the instructions of `W`, and a packed column of blocks that have this word.
#[inline(always)]
pub(super) unsafe fn word<W: Words>(words: *const u8, number: usize) -> W {
    // SAFETY: the same word of sixteen rows is one register, and there are `number` of them before it.
    unsafe { W::load(words.add(number * WORD * PANEL)) }
}

/// Four neighbouring codes of each row, from 0 up unless their signs are kept.
///
/// # Safety
/// Needs the instructions of `W`, and a whole block.
#[inline(always)]
pub(super) unsafe fn stored_codes<B: PanelBlock, W: Words>(words: *const u8, group: usize, quad: usize) -> W {
    // SAFETY: the caller has the instructions and a block's words, and a format names words of its block only (a test
    // asks them all).
    unsafe {
        let Bits { word: number, right, mask } = B::low(group, quad);
        let mut codes = word::<W>(words, number).bits(right, mask);
        if let Some(Bits { word: number, right, mask }) = B::upper(group, quad) {
            let upper = word::<W>(words, number).right_or_left(right);
            codes = codes.or_masked(upper, in_all_bytes(mask));
        }
        let bias = if const { Scheme::of::<B, W>().keeps_signs } { 0 } else { B::BIAS };
        match B::VALUES {
            Some(values) => codes.look_up(&values.map(|value| value.wrapping_add(bias as i8))),
            None if B::STORED_SIGNED && bias > 0 => codes.flip(in_all_bytes(i8::MIN)),
            None => codes,
        }
    }
}
