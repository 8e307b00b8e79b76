//! Products with panels on AVX-512 VNNI: one register of weights serves sixteen rows, inputs are broadcast.
//!
//! Codes meet the inputs as they come out of their bits. Inputs pass in tiles (`tiles.rs`), so that unpacking is shared;
//! the arithmetic and its order are those of one input, so a row's result does not depend on how many inputs there are.

use super::super::activations::QuantizedRow;
use super::super::avx512::Vnni;
use super::super::{Job, PANEL, Pick, blocks};
use super::tiles::{Cut, FOURS, TILES};
use super::{Panels, amx, formats};
use crate::quant::{self, Block};
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

/// How far ahead weights are asked for.
const PREFETCH: usize = 8192;

/// For so few inputs the groups of a block are written out.
const WRITTEN_OUT: usize = 4;

/// The formats with panels.
pub(super) static TABLE: &[Panels] = &[
    Panels::of::<quant::Q4_0>(),
    Panels::of::<quant::Q8_0>(),
    Panels::of::<quant::Q2K>(),
    Panels::of::<quant::Q3K>(),
    Panels::of::<quant::Q4K>(),
    Panels::of::<quant::Q5K>(),
    Panels::of::<quant::Q6K>(),
    Panels::of::<quant::Iq4Nl>(),
    Panels::of::<quant::Iq4Xs>(),
    Panels::of::<quant::Mxfp4>(),
];

impl Panels {
    const fn of<B: PanelBlock>() -> Self {
        Self {
            id: B::ID,
            odd_first: B::ODD_FIRST,
            rows: rows_of_panels::<B>,
            tiled_rows: amx::rows_of_panels::<B>,
        }
    }
}

/// Scales and mins of a group, one row per lane.
pub(super) struct Factors {
    pub(super) scales: __m512,
    /// Zero for formats without.
    pub(super) mins: __m512,
}

/// Where bits of four neighbouring codes are: in every byte of a word, after a rotation to the right.
pub(super) struct Bits {
    pub(super) word: usize,
    pub(super) right: i32,
    pub(super) mask: i8,
}

/// A format as its panels are read; `block` points to sixteen blocks side by side.
pub(super) trait PanelBlock: Block {
    /// How much larger than the weights' codes the stored ones are, read as numbers from 0 up: a power of two for
    /// formats without mins, which have codes below zero, and 0 for the others.
    const BIAS: i32 = 0;
    /// See [`Panels`].
    const ODD_FIRST: bool = false;
    /// What 4-bit codes stand for, where they are indices.
    const VALUES: Option<[i8; 16]> = None;
    /// What all groups share.
    type Head: Head;

    /// The low bits of the group's codes from `4 * quad` on.
    fn low(group: usize, quad: usize) -> Bits;

    /// The bits above them.
    #[inline(always)]
    fn upper(_group: usize, _quad: usize) -> Option<Bits> {
        None
    }

    /// Stored bits to codes with their bias.
    ///
    /// # Safety
    /// Needs AVX-512.
    #[inline(always)]
    unsafe fn turn(codes: __m512i) -> __m512i {
        match Self::VALUES {
            // SAFETY: passed on to the caller.
            Some(values) => unsafe { formats::look_up(values, Self::BIAS, codes) },
            None => codes,
        }
    }
}

/// What all groups of sixteen blocks share, in registers.
pub(super) trait Head: Sized {
    /// Out of a packed column of blocks.
    ///
    /// # Safety
    /// Here and below: needs AVX-512, and whole blocks where there is a pointer.
    unsafe fn read(block: *const u8) -> Self;

    /// A group's scales and mins.
    unsafe fn factors(&self, group: usize) -> Factors;
}

/// Four neighbouring codes of each row, none negative.
#[inline(always)]
pub(super) unsafe fn codes<B: PanelBlock>(block: *const u8, group: usize, quad: usize) -> __m512i {
    // SAFETY: the caller's promises; formats name words of their block only.
    unsafe {
        let Bits { word, right, mask } = B::low(group, quad);
        let mut codes =
            _mm512_and_si512(formats::right(formats::word(block, word), right), _mm512_set1_epi8(mask));
        if let Some(Bits { word, right, mask }) = B::upper(group, quad) {
            let upper = formats::right(formats::word(block, word), right);
            // a | b & c
            codes = _mm512_ternarylogic_epi32::<0xf8>(codes, upper, _mm512_set1_epi8(mask));
        }
        B::turn(codes)
    }
}

/// Does something for every group of a block, written out: with constant numbers the compiler folds places and shifts,
/// which makes a third of the speed.
macro_rules! each_group {
    ($block:ty, |$group:ident| $step:expr) => {
        each_group!(@ $block, $group, $step, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $block:ty, $group:ident, $step:expr, $($number:literal)*) => {
        $(if $number < <$block>::LEN / <$block>::GROUP {
            let $group: usize = $number;
            $step
        })*
    };
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; outputs by the caller's promise.
    unsafe { rows_body::<B>(job, range, &FOURS, panels_of_picks::<B>) }
}

/// Whole panels by `of_picks`, for as many picks at once as are cut into tiles together, and the rows behind them.
///
/// # Safety
/// Needs AVX-512 and what `of_picks` needs; outputs by the caller's promise.
#[inline(always)]
pub(super) unsafe fn rows_body<B: PanelBlock>(
    job: &Job<'_>,
    range: Range<usize>,
    cut: &Cut,
    of_picks: unsafe fn(&Job<'_>, &[Pick], Range<usize>),
) {
    let matrix = &job.matrix;
    let whole = range.end.min(matrix.rows / PANEL * PANEL).max(range.start);
    assert!(range.start.is_multiple_of(PANEL) && (range.end == whole || range.end == matrix.rows));
    if range.start < whole {
        for picks in job.picks.chunks(cut.at_once(matrix.cols)) {
            // SAFETY: the caller's promises.
            unsafe { of_picks(job, picks, range.start..whole) };
        }
    }
    if whole < range.end {
        // SAFETY: as above.
        unsafe { blocks::rows_body::<B, Vnni>(job, whole..range.end) }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panels_of_picks<B: PanelBlock>(job: &Job<'_>, picks: &[Pick], rows: Range<usize>) {
    let panel_bytes = job.matrix.row_bytes() * PANEL;
    let mut tiles = TILES.take();
    // SAFETY: the caller's promises, for every tile.
    unsafe {
        tiles.fill(&FOURS, &job.inputs, picks, B::GROUP, B::BIAS);
        for start in rows.step_by(PANEL) {
            let panel = &job.matrix.bytes[start / PANEL * panel_bytes..][..panel_bytes];
            for tile in FOURS.tiles(picks.len()) {
                let (rest, len) = (&picks[tile.start..], tile.len());
                let inputs = tiles.get(tile, job.inputs.quantized(rest[0].input, B::GROUP));
                match len {
                    12 => pass::<B, 12>(job, panel, start, &inputs, rest),
                    8 => pass::<B, 8>(job, panel, start, &inputs, rest),
                    4 => pass::<B, 4>(job, panel, start, &inputs, rest),
                    2 => pass::<B, 2>(job, panel, start, &inputs, rest),
                    _ => pass::<B, 1>(job, panel, start, &inputs, rest),
                }
            }
        }
    }
    TILES.set(tiles);
}

/// The panel's rows times a tile of `N` inputs, whose results go where the first `N` picks say.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn pass<B: PanelBlock, const N: usize>(
    job: &Job<'_>,
    panel: &[u8],
    start: usize,
    inputs: &QuantizedRow<'_>,
    picks: &[Pick],
) {
    inputs.check(N * job.matrix.cols, B::GROUP);
    let mut sums = [_mm512_setzero_ps(); N];
    for (number, block) in panel.chunks_exact(size_of::<B>() * PANEL).enumerate() {
        let first = number * (B::LEN / B::GROUP);
        // SAFETY: a block has the bytes of sixteen, and the inputs were checked to have as many groups as the panel.
        unsafe {
            let head = B::Head::read(block.as_ptr());
            if N <= WRITTEN_OUT {
                each_group!(B, |group| add_group::<B, N>(&mut sums, block, &head, (first, group), inputs));
            } else {
                for group in 0..B::LEN / B::GROUP {
                    add_group::<B, N>(&mut sums, block, &head, (first, group), inputs);
                }
            }
        }
    }
    for (pick, sums) in picks.iter().zip(sums) {
        // SAFETY: these rows of this output belong to this task.
        unsafe {
            let places = job.output.slice(pick.output, start..start + PANEL);
            _mm512_storeu_ps(places.as_mut_ptr(), sums);
        }
    }
}

/// Asks for the group's share of what follows this block after [`PREFETCH`] bytes: all at once would wait for each other.
#[inline(always)]
fn prefetch<B: PanelBlock>(block: &[u8], group: usize) {
    let (lines, groups) = ((size_of::<B>() * PANEL).div_ceil(64), B::LEN / B::GROUP);
    for line in group * lines / groups..(group + 1) * lines / groups {
        super::super::prefetch(block.as_ptr().wrapping_add(PREFETCH + line * 64));
    }
}

/// The products of a group's codes; `first` is the block's first group.
#[inline(always)]
unsafe fn dots<B: PanelBlock, const N: usize>(
    block: *const u8,
    group: usize,
    first: usize,
    inputs: &QuantizedRow<'_>,
) -> [__m512i; N] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut dots = [_mm512_setzero_si512(); N];
        if B::BIAS > 0 {
            let offsets = inputs.offsets.as_ptr().cast::<i32>().add((first + group) * N);
            for (n, dots) in dots.iter_mut().enumerate() {
                *dots = _mm512_set1_epi32(offsets.add(n).read());
            }
        }
        for quad in 0..B::GROUP / 4 {
            let codes = codes::<B>(block, group, quad);
            let at = (first + group) * (B::GROUP / 4) + quad;
            let fours = inputs.codes.as_ptr().cast::<i32>().add(at * N);
            for (n, dots) in dots.iter_mut().enumerate() {
                *dots = _mm512_dpbusd_epi32(*dots, codes, _mm512_set1_epi32(fours.add(n).read_unaligned()));
            }
        }
        dots
    }
}

/// Adds a group's products to the sums; `first` is the block's first group.
#[inline(always)]
unsafe fn add_group<B: PanelBlock, const N: usize>(
    sums: &mut [__m512; N],
    block: &[u8],
    head: &B::Head,
    (first, group): (usize, usize),
    inputs: &QuantizedRow<'_>,
) {
    // Keeps the loads of a group in their place: all of a block's at its begin would have to be spilled.
    compiler_fence(Ordering::SeqCst);
    prefetch::<B>(block, group);
    // SAFETY: the caller's promises.
    unsafe {
        let factors = head.factors(group);
        let dots = dots::<B, N>(block.as_ptr(), group, first, inputs);
        let scales = inputs.scales.as_ptr().add((first + group) * B::GROUP / 32 * N);
        let input_sums = inputs.sums.as_ptr().add((first + group) * N);
        for (n, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            let factor = _mm512_mul_ps(factors.scales, _mm512_set1_ps(*scales.add(n)));
            *sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), factor, *sums);
            if B::HAS_MIN {
                *sums = _mm512_fnmadd_ps(factors.mins, _mm512_set1_ps(*input_sums.add(n)), *sums);
            }
        }
    }
}
