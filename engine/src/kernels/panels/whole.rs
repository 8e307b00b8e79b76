//! Products on AVX-512 of formats whose codes times their groups' scales are bytes: whole numbers all through a block.
//!
//! The inputs of a block share a scale (`Grain::Coarse`), so floats come once per block: the products of the bytes, and
//! those of the mins with the sums of the inputs' codes, are added up as they are. Both are exact.

use super::super::PANEL;
use super::super::activations::{GROUP, QuantizedRow};
use super::codes::{Head, PackedStep, PanelBlock, Step, each_quad, each_step, open, step_columns, steps};
use super::products::{Ahead, Part, Sums, prefetch};
use super::words::Words;
use std::arch::asm;
use std::arch::x86_64::*;

/// Products are added up in turns: a few inputs would wait for each addition to end.
const TURNS: usize = 2;

/// Fours of codes in a step.
const QUADS: usize = 8;

/// Whole numbers of sixteen rows and `N` inputs.
struct Dots<const N: usize> {
    codes: [[__m512i; N]; TURNS],
    mins: [__m512i; N],
}

/// The body of [`super::products::Passes::pass`] for these formats.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn pass_body<B: PanelBlock, const N: usize>(
    part: &Part<'_>,
    inputs: &QuantizedRow<'_>,
    sums: &Sums<'_>,
) {
    const { assert!(B::WHOLE && B::BIAS == 0 && B::LEN == B::INPUTS.neighbours()) };
    // SAFETY: a block has the bytes of sixteen, and the inputs are checked to have as many; outputs by the caller's
    // promise.
    unsafe {
        let mut all = sums.read::<B, __m512i, N>(part, inputs);
        let ahead = if N == 1 { part.ahead } else { Ahead::FAR };
        for (number, block) in part.blocks.chunks_exact(size_of::<B>() * PANEL).enumerate() {
            let (head, words) = open::<B, __m512i>(block.as_ptr(), part.offset + number * block.len());
            let number = part.steps.start / steps::<B, __m512i>() + number;
            let zero = _mm512_setzero_si512();
            let mut dots = Dots { codes: [[zero; N]; TURNS], mins: [zero; N] };
            each_step!(B, __m512i, |step| {
                prefetch::<B, __m512i>(block, step, ahead);
                add_step::<B, N>(&mut dots, words, &head, (number, step), inputs)
            });
            add_block::<B, N>(&mut all, dots, &head, number, inputs);
        }
        sums.write::<__m512i, N>(all);
    }
}

/// Adds the products of a step, which is two groups, and has the number `step` in its block.
#[inline(always)]
unsafe fn add_step<B: PanelBlock, const N: usize>(
    dots: &mut Dots<N>,
    mut words: *const u8,
    head: &B::Head<__m512i>,
    (number, step): (usize, usize),
    inputs: &QuantizedRow<'_>,
) {
    const { assert!(step_columns::<B, __m512i>() == 4 * QUADS) };
    let pair = number * (B::LEN / GROUP) + step;
    // SAFETY: the caller's promises.
    unsafe {
        for (dot, mins) in dots.codes[0].iter_mut().zip(&mut dots.mins) {
            (*dot, *mins, words) = settle(*dot, *mins, words);
        }
        let mins = head.whole_mins(step);
        let pairs = inputs.pairs.as_ptr().cast::<i32>().add(pair * N);
        for (n, dot) in dots.mins.iter_mut().enumerate() {
            *dot = add_pairs(*dot, mins, pairs.add(n));
        }
        let step = PackedStep::<B, __m512i> { words, head, number: step };
        let fours = inputs.codes.as_ptr().cast::<i32>().add(pair * QUADS * N);
        each_quad!(QUADS, |quad| {
            let codes = step.codes(quad);
            for (n, dot) in dots.codes[turn::<N>(quad)].iter_mut().enumerate() {
                *dot = __m512i::multiply::<B>(*dot, quad, codes, fours.add(quad * N + n));
            }
        });
    }
}

/// Whose turn it is.
#[inline(always)]
const fn turn<const N: usize>(quad: usize) -> usize {
    if N < 4 { quad % TURNS } else { 0 }
}

/// Adds a block to the sums: `(unit * dot - unit of mins * dot of mins) * scale of the inputs`.
#[inline(always)]
unsafe fn add_block<B: PanelBlock, const N: usize>(
    sums: &mut [__m512; N],
    dots: Dots<N>,
    head: &B::Head<__m512i>,
    number: usize,
    inputs: &QuantizedRow<'_>,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let units = head.units();
        let scales = inputs.scales.as_ptr().add(number * (B::LEN / GROUP) * N);
        for (n, sum) in sums.iter_mut().enumerate() {
            let dot =
                if N < 4 { _mm512_add_epi32(dots.codes[0][n], dots.codes[1][n]) } else { dots.codes[0][n] };
            let product = _mm512_mul_ps(units.scales, _mm512_cvtepi32_ps(dot));
            let product = _mm512_fnmadd_ps(units.mins, _mm512_cvtepi32_ps(dots.mins[n]), product);
            *sum = _mm512_fmadd_ps(product, _mm512_set1_ps(*scales.add(n)), *sum);
        }
    }
}

/// [`Words::settle`] for whole numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn settle(mut a: __m512i, mut b: __m512i, mut address: *const u8) -> (__m512i, __m512i, *const u8) {
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} {} {} */",
            inout(zmm_reg) a,
            inout(zmm_reg) b,
            inout(reg) address,
            options(nostack, preserves_flags)
        );
    }
    (a, b, address)
}

/// Adds the products of two halves of each word with those at the address. The compiler would take three instructions.
///
/// # Safety
/// Needs AVX-512 VNNI, and a word at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_pairs(mut sum: __m512i, halves: __m512i, pair: *const i32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {halves}, dword ptr [{pair}]{{1to16}}",
            sum = inout(zmm_reg) sum,
            halves = in(zmm_reg) halves,
            pair = in(reg) pair,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    sum
}
