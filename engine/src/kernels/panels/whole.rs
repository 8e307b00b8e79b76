//! Products of formats whose codes times their groups' scales are bytes: whole numbers all through a block.
//!
//! The inputs of a block share a scale (`Grain::Coarse`), so floats come once per block: the products of the bytes, and
//! those of the mins with the sums of the inputs' codes, are added up as they are. Both are exact. For AVX-512 and NEON;
//! AVX2 comes to the same in another way (`whole_avx2.rs`).

use super::super::activations::{GROUP, QuantizedRow};
use super::super::matrix::PANEL;
use super::codes::{Head, PanelBlock, Scheme, each_step, open};
use super::dots::{BlockDots, QUADS, TURNS};
use super::products::{self, Ahead, Strip, SumPlaces, prefetch};
use super::steps::PackedStep;

/// The body of [`Passes::pass`](super::products::Passes::pass) with a panel as it is, whatever its format, but on AVX2.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn pass<B: PanelBlock, W: BlockDots, const N: usize>(
    strip: &Strip<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &SumPlaces<'_>,
) {
    // SAFETY: both want of the caller what this function wants.
    unsafe {
        if const { Scheme::of::<B, W>().is_whole } {
            pass_blocks::<B, W, N>(strip, inputs, sums);
        } else {
            products::pass_body::<B, W, N>(strip, inputs, sums);
        }
    }
}

/// Whole numbers of sixteen rows and `N` inputs.
struct Dots<W: BlockDots, const N: usize> {
    codes: [[W::Products; N]; TURNS],
    mins: [W; N],
}

/// [`pass`] for these formats.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn pass_blocks<B: PanelBlock, W: BlockDots, const N: usize>(
    strip: &Strip<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &SumPlaces<'_>,
) {
    // SAFETY: a block has the bytes of sixteen, and the inputs are checked to have as many; outputs by the caller's
    // promise.
    unsafe {
        let mut all = sums.read::<B, W, N>(strip, inputs);
        let ahead = if N == 1 { strip.ahead } else { Ahead::FAR };
        for (number, block) in strip.blocks.chunks_exact(size_of::<B>() * PANEL).enumerate() {
            let (head, words) = open::<B, W>(block.as_ptr(), strip.offset + number * block.len());
            let number = strip.steps.start / const { Scheme::of::<B, W>().steps } + number;
            let mut dots = Dots { codes: [[W::begin(None); N]; TURNS], mins: [W::splat(0); N] };
            each_step!(B, W, |step| {
                prefetch::<B, W>(block, step, ahead);
                add_step::<B, W, N>(&mut dots, words, &head, (number, step), inputs)
            });
            add_block::<B, W, N>(&mut all, dots, &head, number, inputs);
        }
        sums.write::<W, N>(all);
    }
}

/// Adds the products of a step, which is two groups, and has the number `step` in its block.
#[inline(always)]
unsafe fn add_step<B: PanelBlock, W: BlockDots, const N: usize>(
    dots: &mut Dots<W, N>,
    mut words: *const u8,
    head: &B::Head<W>,
    (number, step): (usize, usize),
    inputs: &QuantizedRow<'_>,
) {
    const { assert!(!B::WHOLE || Scheme::of::<B, W>().columns == 4 * QUADS) };
    let pair = number * (B::LEN / GROUP) + step;
    // SAFETY: the caller has the instructions; `words` and `head` are those of one packed column of blocks; inputs
    // have `QUADS * N` words and `N` pairs for each of the row's steps.
    unsafe {
        for (dot, mins) in dots.codes[0].iter_mut().zip(&mut dots.mins) {
            (*dot, *mins, words) = W::settle_sums(*dot, *mins, words);
        }
        let mins = head.whole_mins(step);
        let pairs = inputs.pairs.as_ptr().add(pair * N);
        for (n, dot) in dots.mins.iter_mut().enumerate() {
            *dot = W::add_pairs(*dot, mins, pairs.add(n));
        }
        let step = PackedStep::<B, W> { words, head, number: step };
        let fours = inputs.codes.as_ptr().cast::<i32>().add(pair * QUADS * N);
        W::add_codes::<B, _, N>(&mut dots.codes, &step, fours);
    }
}

/// Adds a block to the sums: `(unit * dot - unit of mins * dot of mins) * scale of the inputs`.
#[inline(always)]
unsafe fn add_block<B: PanelBlock, W: BlockDots, const N: usize>(
    sums: &mut [W::Floats; N],
    dots: Dots<W, N>,
    head: &B::Head<W>,
    number: usize,
    inputs: &QuantizedRow<'_>,
) {
    // SAFETY: the caller has the instructions; inputs have a scale per 32 columns, so a block's first is there.
    unsafe {
        let units = head.units();
        let scales = inputs.scales.as_ptr().add(number * (B::LEN / GROUP) * N);
        for (n, sum) in sums.iter_mut().enumerate() {
            let mut dot = W::end(dots.codes[0][n], None);
            if N < 4 {
                dot = dot.add(W::end(dots.codes[1][n], None));
            }
            let product = W::times(units.scales, dot.to_floats());
            let product = W::subtract_product(product, units.mins, dots.mins[n].to_floats());
            *sum = W::add_scaled(*sum, product, scales.add(n));
        }
    }
}
