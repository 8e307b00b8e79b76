//! Products with panels on AVX-512 VNNI: one register of weights serves sixteen rows, inputs are broadcast.
//!
//! Few inputs meet the codes as they come out of their bits; many share a panel that is unpacked once. Both do the same
//! arithmetic in the same order, so a row's result does not depend on how many inputs there are.

use super::super::activations::QuantizedRow;
use super::super::avx512::Vnni;
use super::super::blocks::{self, SCRATCH, Scratch, TILE};
use super::super::{Job, PANEL, Pick};
use super::{Panels, formats};
use crate::quant::{self, Block};
use std::arch::x86_64::*;
use std::ops::Range;

/// From this many inputs on, unpacking a panel once pays.
const UNPACKED: usize = 16;

/// How far ahead weights are asked for: the hardware's own prefetcher stops at every page.
const PREFETCH: usize = 4096;

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
        Self { id: B::ID, odd_first: B::ODD_FIRST, rows: rows_of_panels::<B> }
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
    /// What all groups of a block share.
    type Head;

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
    /// Here and below: needs AVX-512, and a whole block where there is a pointer.
    #[inline(always)]
    unsafe fn turn(codes: __m512i) -> __m512i {
        codes
    }

    /// What all groups share.
    unsafe fn head(block: *const u8) -> Self::Head;

    /// A group's scales and mins.
    unsafe fn factors(head: &Self::Head, group: usize) -> Factors;
}

/// Four neighbouring codes of each row, none negative.
#[inline(always)]
unsafe fn codes<B: PanelBlock>(block: *const u8, group: usize, quad: usize) -> __m512i {
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
    ($block:ty, |$group:ident| $step:block) => {
        each_group!(@ $block, $group, $step, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $block:ty, $group:ident, $step:block, $($number:literal)*) => {
        $(if $number < <$block>::LEN / <$block>::GROUP {
            let $group: usize = $number;
            $step
        })*
    };
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows_of_panels<B: PanelBlock>(job: &Job<'_>, range: Range<usize>) {
    let matrix = &job.matrix;
    let whole = range.end.min(matrix.rows / PANEL * PANEL);
    assert!(range.start.is_multiple_of(PANEL) && (range.end <= whole || range.end == matrix.rows));
    let panel_bytes = matrix.row_bytes() * PANEL;
    for start in (range.start..whole).step_by(PANEL) {
        let panel = &matrix.bytes[start / PANEL * panel_bytes..][..panel_bytes];
        // SAFETY: compiled for the instructions; outputs by the caller's promise.
        unsafe {
            match job.picks.len() {
                0..UNPACKED => packed::<B>(job, panel, start),
                _ => unpacked::<B>(job, panel, start),
            }
        }
    }
    if whole < range.end {
        // SAFETY: as above.
        unsafe { blocks::rows_body::<B, Vnni>(job, whole.max(range.start)..range.end) }
    }
}

/// All inputs in tiles of eight, four, two and one.
#[inline(always)]
unsafe fn packed<B: PanelBlock>(job: &Job<'_>, panel: &[u8], start: usize) {
    let (tiles, rest) = job.picks.as_chunks::<TILE>();
    let (fours, rest) = rest.as_chunks::<4>();
    let (twos, ones) = rest.as_chunks::<2>();
    // SAFETY: the caller's promises, for each of them.
    unsafe {
        for picks in tiles {
            tile::<B, TILE>(job, panel, start, picks);
        }
        for picks in fours {
            tile::<B, 4>(job, panel, start, picks);
        }
        for picks in twos {
            tile::<B, 2>(job, panel, start, picks);
        }
        for pick in ones {
            tile::<B, 1>(job, panel, start, &[*pick]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<B: PanelBlock, const N: usize>(job: &Job<'_>, panel: &[u8], start: usize, picks: &[Pick; N]) {
    let inputs = picks.map(|pick| job.inputs.quantized(pick.input, B::GROUP));
    for input in &inputs {
        input.check(job.matrix.cols, B::GROUP);
    }
    let mut sums = [_mm512_setzero_ps(); N];
    for (number, block) in panel.chunks_exact(size_of::<B>() * PANEL).enumerate() {
        let first = number * (B::LEN / B::GROUP);
        // SAFETY: a block has the bytes of sixteen, and the inputs were checked to have as many groups as the panel.
        unsafe {
            prefetch::<B>(block);
            let head = B::head(block.as_ptr());
            each_group!(B, |group| {
                let factors = B::factors(&head, group);
                let dots = dots::<B, N>(block.as_ptr(), group, first, &inputs);
                add_group::<B, N>(&mut sums, &factors, dots, first + group, &inputs);
            });
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

/// Asks for what follows this block after [`PREFETCH`] bytes.
#[inline(always)]
unsafe fn prefetch<B: PanelBlock>(block: &[u8]) {
    for line in 0..(size_of::<B>() * PANEL).div_ceil(64) {
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(PREFETCH + line * 64).cast()) }
    }
}

/// The products of a group's codes; `first` is the block's first group.
#[inline(always)]
unsafe fn dots<B: PanelBlock, const N: usize>(
    block: *const u8,
    group: usize,
    first: usize,
    inputs: &[QuantizedRow<'_>; N],
) -> [__m512i; N] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut dots = [_mm512_setzero_si512(); N];
        if B::BIAS > 0 {
            for (dots, input) in dots.iter_mut().zip(inputs) {
                let offset = input.offsets.as_ptr().add(first + group).cast::<i32>().read();
                // The offset is for a bias of 128.
                *dots = _mm512_set1_epi32(offset >> (7 - B::BIAS.ilog2()));
            }
        }
        for quad in 0..B::GROUP / 4 {
            let codes = codes::<B>(block, group, quad);
            let at = (first + group) * (B::GROUP / 4) + quad;
            for (dots, input) in dots.iter_mut().zip(inputs) {
                let four = input.codes.as_ptr().cast::<i32>().add(at).read_unaligned();
                *dots = _mm512_dpbusd_epi32(*dots, codes, _mm512_set1_epi32(four));
            }
        }
        dots
    }
}

#[inline(always)]
unsafe fn add_group<B: PanelBlock, const N: usize>(
    sums: &mut [__m512; N],
    factors: &Factors,
    dots: [__m512i; N],
    group: usize,
    inputs: &[QuantizedRow<'_>; N],
) {
    // SAFETY: the caller's promises.
    unsafe {
        for ((sums, dots), input) in sums.iter_mut().zip(dots).zip(inputs) {
            let scale = _mm512_set1_ps(*input.scales.as_ptr().add(group * B::GROUP / 32));
            let factor = _mm512_mul_ps(factors.scales, scale);
            *sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), factor, *sums);
            if B::HAS_MIN {
                let input_sum = _mm512_set1_ps(*input.sums.as_ptr().add(group));
                *sums = _mm512_fnmadd_ps(factors.mins, input_sum, *sums);
            }
        }
    }
}

/// Unpacks the panel into bytes that all inputs pass.
#[inline(always)]
unsafe fn unpacked<B: PanelBlock>(job: &Job<'_>, panel: &[u8], start: usize) {
    let mut scratch = SCRATCH.take();
    scratch.prepare(job.matrix.cols, B::GROUP);
    // SAFETY: the caller's promises.
    unsafe {
        unpack::<B>(panel, &mut scratch);
        blocks::pass_panel::<B, Vnni>(job, start..start + PANEL, &scratch);
    }
    SCRATCH.set(scratch);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack<B: PanelBlock>(panel: &[u8], scratch: &mut Scratch) {
    let groups = B::LEN / B::GROUP;
    // Codes with a bias of 128 are what the pass expects of formats without mins.
    let bias = if B::BIAS > 0 { 128 - B::BIAS } else { 0 };
    let bias = _mm512_set1_epi8(bias as i8);
    let places = scratch.panel.chunks_exact_mut(B::LEN * PANEL);
    let factors = scratch.panel_scales.chunks_exact_mut(groups * PANEL);
    let factors = factors.zip(scratch.panel_mins.chunks_exact_mut(groups * PANEL));
    for ((block, places), (scales, mins)) in
        panel.chunks_exact(size_of::<B>() * PANEL).zip(places).zip(factors)
    {
        // SAFETY: a block has the bytes of sixteen; the destinations have room for its codes and groups.
        unsafe {
            prefetch::<B>(block);
            let head = B::head(block.as_ptr());
            each_group!(B, |group| {
                let factors = B::factors(&head, group);
                _mm512_storeu_ps(scales.as_mut_ptr().add(group * PANEL), factors.scales);
                if B::HAS_MIN {
                    _mm512_storeu_ps(mins.as_mut_ptr().add(group * PANEL), factors.mins);
                }
                for quad in 0..B::GROUP / 4 {
                    let four = _mm512_add_epi8(codes::<B>(block.as_ptr(), group, quad), bias);
                    let at = (group * B::GROUP / 4 + quad) * 4 * PANEL;
                    _mm512_storeu_si512(places.as_mut_ptr().add(at).cast(), four);
                }
            });
        }
    }
}
