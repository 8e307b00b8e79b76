//! Inner loops for AVX-512 with VNNI: 64 byte products an instruction.

use super::activations::QuantizedRow;
use super::blocks::{ByteDots, Panel, Shape, UnpackedRow, by_shape};
use super::job::Job;
use super::matrix::PANEL;
use super::{blocks, floats};
use crate::quant::{Block, Float};
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) struct Vnni;

/// 64 codes times 64 inputs, summed by fours. VNNI wants its first operand unsigned: a negative code moves its
/// sign to the input.
#[inline(always)]
unsafe fn dots(codes: __m512i, input: __m512i, signed: bool) -> __m512i {
    // SAFETY: callers are compiled for AVX-512 VNNI, and there is no pointer.
    unsafe {
        let zero = _mm512_setzero_si512();
        if !signed {
            return _mm512_dpbusd_epi32(zero, codes, input);
        }
        let negative = _mm512_movepi8_mask(codes);
        let input = _mm512_mask_sub_epi8(input, negative, zero, input);
        _mm512_dpbusd_epi32(zero, _mm512_abs_epi8(codes), input)
    }
}

impl ByteDots for Vnni {
    type Widen = super::avx2::F16c;
    const OFFSET_CODES: bool = true;

    #[inline(always)]
    unsafe fn row(weights: &UnpackedRow<'_>, input: &QuantizedRow<'_>, shape: Shape) -> f32 {
        // SAFETY: the caller is compiled for the same instructions; `row` checks lengths before it loads.
        unsafe { by_shape!(shape, |GROUP, SIGNED| row::<GROUP, SIGNED>(weights, input)) }
    }

    #[inline(always)]
    unsafe fn panel<const N: usize>(panel: &Panel<'_>, inputs: &[QuantizedRow<'_>; N]) -> [[f32; PANEL]; N] {
        // SAFETY: the caller is compiled for the same instructions; the panel's lengths are checked before anything is
        // loaded.
        unsafe { by_shape!(panel.shape, |GROUP, SIGNED| sixteen_rows::<N, GROUP, SIGNED>(panel, inputs)) }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn row<const GROUP: usize, const SIGNED: bool>(
    weights: &UnpackedRow<'_>,
    input: &QuantizedRow<'_>,
) -> f32 {
    weights.check(input, GROUP);
    let (codes, groups) = (weights.codes, weights.scales.len());
    // One register of sixteen factors covers `step` codes.
    let step = 16 * GROUP;
    let mut sums = [_mm512_setzero_ps(); 2];
    let mut start = 0;
    // SAFETY: loads stay below `codes.len()` codes and `groups` scales, mins and sums, the last ones by mask.
    unsafe {
        while start + 64 <= codes.len() {
            let group = start / GROUP;
            let mask = first_lanes(groups - group);
            let scales = _mm512_maskz_loadu_ps(mask, weights.scales.as_ptr().add(group));
            let factors = _mm512_mul_ps(scales, input_scales::<GROUP>(input, start / 32));
            if !weights.mins.is_empty() {
                let mins = _mm512_maskz_loadu_ps(mask, weights.mins.as_ptr().add(group));
                let input_sums = _mm512_maskz_loadu_ps(mask, input.sums.as_ptr().add(group));
                sums[1] = _mm512_fnmadd_ps(mins, input_sums, sums[1]);
            }
            let registers = (codes.len() - start).min(step) / 64;
            // A constant count, so that the lanes of every register are constants too.
            for r in 0..step / 64 {
                if r >= registers {
                    break;
                }
                let at = start + r * 64;
                let codes = _mm512_loadu_si512(codes.as_ptr().add(at).cast());
                let input = _mm512_loadu_si512(input.codes.as_ptr().add(at).cast());
                let factor = _mm512_permutexvar_ps(factor_lanes(r, GROUP), factors);
                let dots = _mm512_cvtepi32_ps(dots(codes, input, SIGNED));
                sums[r % 2] = _mm512_fmadd_ps(dots, factor, sums[r % 2]);
            }
            start += registers * 64;
        }
    }
    let sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
    if start < codes.len() { sum + tail(weights, input, GROUP, start) } else { sum }
}

/// A mask of the first `count` of sixteen lanes.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// The input's scales of sixteen weight groups from its `from`th on.
#[inline(always)]
unsafe fn input_scales<const GROUP: usize>(input: &QuantizedRow<'_>, from: usize) -> __m512 {
    let mask = first_lanes(input.scales.len() - from);
    // SAFETY: masked to what is there; callers are compiled for AVX-512.
    unsafe {
        if GROUP == 32 {
            return _mm512_maskz_loadu_ps(mask, input.scales.as_ptr().add(from));
        }
        let eight = _mm512_maskz_loadu_ps(mask & 0xff, input.scales.as_ptr().add(from));
        _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), eight)
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn sixteen_rows<const N: usize, const GROUP: usize, const SIGNED: bool>(
    panel: &Panel<'_>,
    inputs: &[QuantizedRow<'_>; N],
) -> [[f32; PANEL]; N] {
    let groups = panel.check(inputs, GROUP);
    // SAFETY: the lengths that were checked bound every load.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); N];
        for g in 0..groups {
            let mut dots = [_mm512_setzero_si512(); N];
            if SIGNED {
                for (dots, input) in dots.iter_mut().zip(inputs) {
                    *dots = _mm512_set1_epi32(*input.offsets.as_ptr().add(g));
                }
            }
            for k in 0..GROUP / 4 {
                let at = g * GROUP / 4 + k;
                let codes = _mm512_loadu_si512(panel.codes.as_ptr().add(at * 64).cast());
                for (dots, input) in dots.iter_mut().zip(inputs) {
                    let four = input.codes.as_ptr().cast::<i32>().add(at).read_unaligned();
                    *dots = _mm512_dpbusd_epi32(*dots, codes, _mm512_set1_epi32(four));
                }
            }
            let scales = _mm512_loadu_ps(panel.scales.as_ptr().add(g * PANEL));
            for ((sums, dots), input) in sums.iter_mut().zip(dots).zip(inputs) {
                let factor =
                    _mm512_mul_ps(scales, _mm512_set1_ps(*input.scales.as_ptr().add(g * GROUP / 32)));
                *sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), factor, *sums);
            }
            if !panel.mins.is_empty() {
                let mins = _mm512_loadu_ps(panel.mins.as_ptr().add(g * PANEL));
                for (sums, input) in sums.iter_mut().zip(inputs) {
                    *sums = _mm512_fnmadd_ps(mins, _mm512_set1_ps(*input.sums.as_ptr().add(g)), *sums);
                }
            }
        }
        let mut out = [[0f32; PANEL]; N];
        for (out, sums) in out.iter_mut().zip(sums) {
            _mm512_storeu_ps(out.as_mut_ptr(), sums);
        }
        out
    }
}

/// Which of sixteen factors each lane of register `r` takes: a lane holds four codes.
#[inline(always)]
unsafe fn factor_lanes(r: usize, group: usize) -> __m512i {
    let first = (r * 64 / group) as i32;
    let lanes_per_group = group as i32 / 4;
    let lane = |lane: i32| first + lane / lanes_per_group;
    let lanes: [i32; 16] = std::array::from_fn(|i| lane(i as i32));
    // SAFETY: callers are compiled for AVX-512; the array is one register long.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// The groups after the last 64 codes. Their mins were among those of the last step, unless that was a full one.
fn tail(weights: &UnpackedRow<'_>, input: &QuantizedRow<'_>, group: usize, from: usize) -> f32 {
    let mut sum = 0.0;
    for g in from / group..weights.scales.len() {
        let range = g * group..(g + 1) * group;
        let pairs = weights.codes[range.clone()].iter().zip(&input.codes[range]);
        let dot: i32 = pairs.map(|(&code, &input)| code as i32 * input as i32).sum();
        sum += weights.scales[g] * input.scales[g * group / 32] * dot as f32;
        if from.is_multiple_of(16 * group) && !weights.mins.is_empty() {
            sum -= weights.mins[g] * input.sums[g];
        }
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_blocks<B: Block>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { blocks::rows_body::<B, Vnni>(job, range) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn rows_of_floats<F: Float>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: there are no pointers; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { floats::rows_body::<F, true>(job, range) }
}
