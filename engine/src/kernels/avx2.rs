//! Inner loops for AVX2, with and without VNNI.
//!
//! Without it `maddubs` adds pairs of products in 16 bits: with codes as magnitudes (at most 128) and inputs of at most
//! 127 a pair stays below 32,512, so nothing saturates and sums equal those of every other instruction set.

use super::activations::QuantizedRow;
use super::blocks::{ByteDots, Panel, Shape, UnpackedRow, by_shape};
use super::job::Job;
use super::matrix::PANEL;
use super::{blocks, floats};
use crate::quant::{Block, F16, Float, Widen};
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) struct Avx2<const VNNI: bool>;

/// Adds 32 codes times 32 inputs by fours.
///
/// # Safety
/// With `VNNI` the machine must have AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_dots<const VNNI: bool>(
    sums: __m256i,
    codes: __m256i,
    input: __m256i,
    signed: bool,
) -> __m256i {
    let (codes, input) = match signed {
        true => (_mm256_abs_epi8(codes), _mm256_sign_epi8(input, codes)),
        false => (codes, input),
    };
    if !VNNI {
        let dots = _mm256_madd_epi16(_mm256_maddubs_epi16(codes, input), _mm256_set1_epi16(1));
        return _mm256_add_epi32(sums, dots);
    }
    let mut sums = sums;
    // Written out, so that the same functions serve machines with and without the instruction.
    // SAFETY: the caller has the instruction, and it touches registers alone.
    unsafe {
        std::arch::asm!(
            "{{vex}} vpdpbusd {sums}, {codes}, {input}",
            sums = inout(ymm_reg) sums,
            codes = in(ymm_reg) codes,
            input = in(ymm_reg) input,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Instructions of every machine with AVX2. Its functions are safe to call for the type's sake alone: it is known in the
/// kernels only, as [`ByteDots::Widen`] of sets that have the instructions.
pub(super) struct F16c;

impl Widen for F16c {
    #[inline(always)]
    fn f16(value: F16) -> f32 {
        let widened: __m128;
        // Written out, because the compiler would insert the word into a register that something else still fills.
        // SAFETY: used only inside kernels, which are compiled and selected for F16C; touches registers alone.
        unsafe {
            std::arch::asm!(
                "vmovd {x}, {bits:e}",
                "vcvtph2ps {x}, {x}",
                x = out(xmm_reg) widened,
                bits = in(reg) value.to_bits() as u32,
                options(pure, nomem, nostack, preserves_flags)
            );
            _mm_cvtss_f32(widened)
        }
    }

    #[inline(always)]
    fn look_up(table: [i8; 16], codes: &mut [i8]) {
        // SAFETY: used only inside kernels, which are compiled and selected for AVX2; all pointers are arrays.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            for codes in codes.as_chunks_mut::<32>().0 {
                let values = _mm256_shuffle_epi8(table, _mm256_loadu_si256(codes.as_ptr().cast()));
                _mm256_storeu_si256(codes.as_mut_ptr().cast(), values);
            }
        }
    }
}

impl<const VNNI: bool> ByteDots for Avx2<VNNI> {
    type Widen = F16c;
    const OFFSET_CODES: bool = false;

    #[inline(always)]
    unsafe fn row(weights: &UnpackedRow<'_>, input: &QuantizedRow<'_>, shape: Shape) -> f32 {
        // SAFETY: the caller is compiled for the same instructions; `row` checks lengths before it loads.
        unsafe { by_shape!(shape, |GROUP, SIGNED| row::<VNNI, GROUP, SIGNED>(weights, input)) }
    }

    #[inline(always)]
    unsafe fn panel<const N: usize>(panel: &Panel<'_>, inputs: &[QuantizedRow<'_>; N]) -> [[f32; PANEL]; N] {
        let groups = panel.check(inputs, panel.shape.group);
        let mut sums = [[0f32; PANEL]; N];
        for (sums, input) in sums.iter_mut().zip(inputs) {
            for half in 0..2 {
                // SAFETY: the lengths that were checked bound every load.
                unsafe {
                    by_shape!(panel.shape, |GROUP, SIGNED| half_panel::<VNNI, GROUP, SIGNED>(
                        panel, half, input, groups, sums
                    ));
                }
            }
        }
        sums
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row<const VNNI: bool, const GROUP: usize, const SIGNED: bool>(
    weights: &UnpackedRow<'_>,
    input: &QuantizedRow<'_>,
) -> f32 {
    weights.check(input, GROUP);
    let mut lanes = [0f32; 8];
    // SAFETY: every load stays below the number of codes, a multiple of 32, and of its scales.
    unsafe {
        let mut sums = _mm256_setzero_ps();
        for i in 0..weights.codes.len() / 32 {
            let codes = _mm256_loadu_si256(weights.codes.as_ptr().add(i * 32).cast());
            let values = _mm256_loadu_si256(input.codes.as_ptr().add(i * 32).cast());
            let scale = weights.scales.as_ptr().add(i * 32 / GROUP);
            let scales = match GROUP {
                32 => _mm256_set1_ps(*scale),
                _ => _mm256_set_m128(_mm_set1_ps(*scale.add(1)), _mm_set1_ps(*scale)),
            };
            let factor = _mm256_mul_ps(scales, _mm256_set1_ps(*input.scales.as_ptr().add(i)));
            let dots = add_dots::<VNNI>(_mm256_setzero_si256(), codes, values, SIGNED);
            sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), factor, sums);
        }
        _mm256_storeu_ps(lanes.as_mut_ptr(), sums);
    }
    for (mins, sums) in weights.mins.chunks(8).zip(input.sums.chunks(8)) {
        for ((lane, min), sum) in lanes.iter_mut().zip(mins).zip(sums) {
            *lane -= min * sum;
        }
    }
    let halves = [lanes[0] + lanes[4], lanes[1] + lanes[5], lanes[2] + lanes[6], lanes[3] + lanes[7]];
    (halves[0] + halves[2]) + (halves[1] + halves[3])
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_panel<const VNNI: bool, const GROUP: usize, const SIGNED: bool>(
    panel: &Panel<'_>,
    half: usize,
    input: &QuantizedRow<'_>,
    groups: usize,
    out: &mut [f32; PANEL],
) {
    // SAFETY: the caller checked all lengths against `groups`.
    unsafe {
        let mut sums = _mm256_setzero_ps();
        for g in 0..groups {
            let mut total = _mm256_setzero_si256();
            for k in 0..GROUP / 4 {
                let at = g * GROUP / 4 + k;
                let codes = _mm256_loadu_si256(panel.codes.as_ptr().add(at * 64 + half * 32).cast());
                let four = input.codes.as_ptr().cast::<i32>().add(at).read_unaligned();
                total = add_dots::<VNNI>(total, codes, _mm256_set1_epi32(four), SIGNED);
            }
            let at = g * PANEL + half * 8;
            let input_scale = _mm256_set1_ps(*input.scales.as_ptr().add(g * GROUP / 32));
            let factor = _mm256_mul_ps(_mm256_loadu_ps(panel.scales.as_ptr().add(at)), input_scale);
            sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), factor, sums);
            if !panel.mins.is_empty() {
                let mins = _mm256_loadu_ps(panel.mins.as_ptr().add(at));
                sums = _mm256_fnmadd_ps(mins, _mm256_set1_ps(*input.sums.as_ptr().add(g)), sums);
            }
        }
        _mm256_storeu_ps(out.as_mut_ptr().add(half * 8), sums);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn rows_of_blocks<B: Block, const VNNI: bool>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; the rows of these outputs are this task's own, as
    // [`RowsFn`](super::job::RowsFn) has it.
    unsafe { blocks::rows_body::<B, Avx2<VNNI>>(job, range) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn rows_of_floats<F: Float>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: there are no pointers; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { floats::rows_body::<F, true>(job, range) }
}
