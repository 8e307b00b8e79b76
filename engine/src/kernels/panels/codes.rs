//! What a format says of its panels, and what kernels get of them: codes and factors, step by step.
//!
//! A step is the columns whose products are added up as whole numbers: a group, which shares a scale. Where group scales
//! are small whole numbers times that of the block (Q2_K), a code times its scale still is a byte; two groups of sixteen
//! then are one step, and the steps of a block are added up together (`whole.rs`, `whole_avx2.rs`). `formats.rs` has the
//! formats.

use super::super::activations::QuantizedRow;
use super::products::{Part, Sums, pass_body};
#[cfg(target_arch = "x86_64")]
use super::unpacked::Unpacked;
use super::whole::BlockSums;
use super::words::Words;
#[cfg(target_arch = "x86_64")]
use super::words_x86::Pair;
use super::{PANEL, WORD, formats, words_come_first};
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
    /// Whether codes times their groups' scales are bytes from 0 up, see [`Whole`].
    const WHOLE: bool = false;
    /// Whether codes are stored with their sign; others are stored with their bias.
    const STORED_SIGNED: bool = false;
    /// See [`super::Panels`].
    const ODD_FIRST: bool = false;
    /// See [`super::Panels`].
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

    /// The body of [`Passes::pass`](super::products::Passes::pass) with a panel as it is, but on AVX2.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn pass<W: BlockSums, const N: usize>(
        part: &Part<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &Sums<'_>,
    ) {
        // SAFETY: the caller's promises.
        unsafe { pass_body::<Self, W, N>(part, inputs, sums) }
    }

    /// The body of [`Passes::begin`](super::products::Passes::begin) on AVX2, where columns come out of their bits.
    ///
    /// # Safety
    /// As there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn unpack_on_avx2<const VNNI: bool>(panel: &mut Unpacked, part: &Part<'_>) {
        // SAFETY: the caller's promises.
        unsafe { panel.fill::<Self, Pair<VNNI>>(part) }
    }

    /// The body of [`Passes::pass`](super::products::Passes::pass) there, with the columns that have been unpacked.
    ///
    /// # Safety
    /// As there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn pass_on_avx2<const VNNI: bool, const N: usize>(
        panel: Option<&Unpacked>,
        part: &Part<'_>,
        inputs: &QuantizedRow<'_>,
        sums: &Sums<'_>,
    ) {
        // SAFETY: the caller's promises.
        unsafe { pass_steps_on_avx2::<Self, VNNI, N>(panel, part, inputs, sums) }
    }
}

/// What [`PanelBlock::pass_on_avx2`] is for formats whose floats come in with every step.
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn pass_steps_on_avx2<B: PanelBlock, const VNNI: bool, const N: usize>(
    panel: Option<&Unpacked>,
    part: &Part<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &Sums<'_>,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match panel {
            Some(panel) => panel.pass_body::<B, Pair<VNNI>, N>(part, inputs, sums),
            None => pass_body::<B, Pair<VNNI>, N>(part, inputs, sums),
        }
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
    // SAFETY: the caller's promise.
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

/// Whether blocks are added up as whole numbers, their scales included.
pub(super) const fn is_whole<B: PanelBlock, W: Words>() -> bool {
    B::WHOLE && W::SUMS_BLOCKS
}

/// Whether inputs meet codes times their whole scales.
const fn is_scaled<B: PanelBlock, W: Words>() -> bool {
    B::WHOLE && W::SCALES_CODES
}

/// Whether a format's codes have to keep their signs for the products of `W`.
pub(super) const fn keeps_signs<B: PanelBlock, W: Words>() -> bool {
    B::LARGEST > W::LARGEST_CODE
}

/// Whether mins meet the sums of groups as floats.
pub(super) const fn reads_sums<B: PanelBlock, W: Words>() -> bool {
    B::HAS_MIN && !is_whole::<B, W>()
}

/// Whether codes come too large by their bias, which the inputs' offsets take away.
pub(super) const fn reads_offsets<B: PanelBlock, W: Words>() -> bool {
    B::BIAS > 0 && !keeps_signs::<B, W>()
}

/// Columns of a step.
pub(super) const fn step_columns<B: PanelBlock, W: Words>() -> usize {
    if is_whole::<B, W>() { 32 } else { B::GROUP }
}

/// Steps of a block.
pub(super) const fn steps<B: PanelBlock, W: Words>() -> usize {
    B::LEN / step_columns::<B, W>()
}

/// Steps that are written out together.
pub(super) const fn stretch<B: PanelBlock, W: Words>() -> usize {
    if steps::<B, W>() < B::STRETCH { steps::<B, W>() } else { B::STRETCH }
}

/// Does something for every step of a block. A stretch of them is written out: with constant numbers the compiler folds
/// places and shifts, which makes a third of the speed.
macro_rules! each_step {
    ($block:ty, $words:ty, |$step:ident| $body:expr) => {
        each_step!(@ $block, $words, $step, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $block:ty, $words:ty, $step:ident, $body:expr, $($number:literal)*) => {
        use $crate::kernels::panels::codes;
        const { assert!(codes::steps::<$block, $words>().is_multiple_of(codes::stretch::<$block, $words>())) };
        for first in (0..codes::steps::<$block, $words>()).step_by(codes::stretch::<$block, $words>()) {
            $(if $number < const { codes::stretch::<$block, $words>() } {
                let $step: usize = first + $number;
                $body
            })*
        }
    };
}
pub(super) use each_step;

/// Does something for up to eight fours of codes, written out: the compiler leaves a loop where there are many inputs, and
/// makes what are constants again and again.
macro_rules! each_quad {
    ($quads:expr, |$quad:ident| $body:expr) => {
        each_quad!(@ $quads, $quad, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $quads:expr, $quad:ident, $body:expr, $($number:literal)*) => {
        $(if $number < $quads {
            let $quad: usize = $number;
            $body
        })*
    };
}
pub(super) use each_quad;

/// The columns of a step, of sixteen rows.
pub(super) trait Step<W: Words> {
    /// The scales of all of its codes.
    ///
    /// # Safety
    /// Here and below: needs the instructions of `W`.
    unsafe fn scales(&self) -> W::Floats;

    /// The mins of one of its groups.
    unsafe fn mins(&self, group: usize) -> W::Floats;

    /// Its four codes of each row from `4 * quad` on, from 0 up unless their signs are kept.
    unsafe fn codes(&self, quad: usize) -> W;
}

/// A step of a panel as it is.
pub(super) struct PackedStep<'a, B: PanelBlock, W: Words> {
    /// Leads to the words of a packed column of blocks.
    pub(super) words: *const u8,
    pub(super) head: &'a B::Head<W>,
    pub(super) number: usize,
}

impl<B: PanelBlock, W: Words> PackedStep<'_, B, W> {
    /// One of the step's groups, counted from the block's first.
    #[inline(always)]
    fn group(&self, number: usize) -> usize {
        self.number * (step_columns::<B, W>() / B::GROUP) + number
    }
}

impl<B: PanelBlock, W: Words> Step<W> for PackedStep<'_, B, W> {
    #[inline(always)]
    unsafe fn scales(&self) -> W::Floats {
        // SAFETY: the caller's promise.
        unsafe {
            if is_whole::<B, W>() {
                self.head.units().scales
            } else {
                self.head.factors(self.group(0)).scales
            }
        }
    }

    #[inline(always)]
    unsafe fn mins(&self, group: usize) -> W::Floats {
        // SAFETY: as above.
        unsafe { self.head.factors(self.group(group)).mins }
    }

    #[inline(always)]
    unsafe fn codes(&self, quad: usize) -> W {
        let (group, quad) = (self.group(quad / (B::GROUP / 4)), quad % (B::GROUP / 4));
        // SAFETY: as above; formats name words of their block only.
        unsafe {
            let codes = stored_codes::<B, W>(self.words, group, quad);
            if is_scaled::<B, W>() { codes.times_halves(self.head.whole_scales(group)) } else { codes }
        }
    }
}

/// Four neighbouring codes of each row, from 0 up unless their signs are kept.
///
/// # Safety
/// Needs the instructions of `W`, and a whole block.
#[inline(always)]
pub(super) unsafe fn stored_codes<B: PanelBlock, W: Words>(words: *const u8, group: usize, quad: usize) -> W {
    // SAFETY: the caller's promises.
    unsafe {
        let Bits { word, right, mask } = B::low(group, quad);
        let mut codes: W = formats::word::<W>(words, word).bits(right, mask);
        if let Some(Bits { word, right, mask }) = B::upper(group, quad) {
            let upper = formats::word::<W>(words, word).right_or_left(right);
            codes = codes.or_masked(upper, formats::in_all_bytes(mask));
        }
        let bias = if keeps_signs::<B, W>() { 0 } else { B::BIAS };
        match B::VALUES {
            Some(values) => codes.look_up(&values.map(|value| value.wrapping_add(bias as i8))),
            None if B::STORED_SIGNED && bias > 0 => codes.flip(formats::in_all_bytes(i8::MIN)),
            None => codes,
        }
    }
}
