//! Inner loops for NEON with products of bytes: sixteen of them an instruction, with signs on both sides.
//!
//! The intrinsics of these products are unstable, so they are written out. `panels/words_neon.rs` has them, too, for
//! panels.

use super::activations::{GROUP, QuantizedRow};
use super::blocks::{ByteDots, Panel, Shape, UnpackedRow};
use super::job::Job;
use super::matrix::PANEL;
use super::{blocks, floats};
use crate::quant::{Block, F16, Float, Widen};
use crate::simd::{Isa, LANES, Lanes, Work};
use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

pub(super) struct NeonDot;

/// Adds sixteen products of bytes by fours.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn add_dots(mut sums: int32x4_t, codes: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    // SAFETY: compiled for the instruction, and it touches registers alone.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) codes,
            in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Instructions of every aarch64 machine.
pub(super) struct Neon;

impl Widen for Neon {
    #[inline(always)]
    fn f16(value: F16) -> f32 {
        let widened: f32;
        // SAFETY: every aarch64 machine has the instructions, and they touch registers alone.
        unsafe {
            asm!(
                "fmov {x:s}, {bits:w}",
                "fcvt {x:s}, {x:h}",
                x = out(vreg) widened,
                bits = in(reg) value.to_bits() as u32,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        widened
    }

    #[inline(always)]
    fn look_up(table: [i8; 16], codes: &mut [i8]) {
        // SAFETY: every aarch64 machine has the instructions; all pointers are arrays.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            for codes in codes.as_chunks_mut::<16>().0 {
                let indices = vreinterpretq_u8_s8(vld1q_s8(codes.as_ptr()));
                vst1q_s8(codes.as_mut_ptr(), vqtbl1q_s8(table, indices));
            }
        }
    }
}

impl ByteDots for NeonDot {
    type Widen = Neon;
    const OFFSET_CODES: bool = false;

    #[inline(always)]
    unsafe fn row(weights: &UnpackedRow<'_>, input: &QuantizedRow<'_>, shape: Shape) -> f32 {
        // SAFETY: the caller has the instructions; `row` checks lengths before it loads.
        unsafe {
            match shape.group {
                16 => row::<16>(weights, input),
                _ => row::<32>(weights, input),
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<const N: usize>(panel: &Panel<'_>, inputs: &[QuantizedRow<'_>; N]) -> [[f32; PANEL]; N] {
        let groups = panel.check(inputs, panel.shape.group);
        let mut sums = [[0f32; PANEL]; N];
        for (sums, input) in sums.iter_mut().zip(inputs) {
            // SAFETY: the lengths that were checked bound every load.
            unsafe {
                match panel.shape.group {
                    16 => one_input::<16>(panel, input, groups, sums),
                    _ => one_input::<32>(panel, input, groups, sums),
                }
            }
        }
        sums
    }
}

/// A row times an input: two sums of four, then mins in as many lanes.
///
/// # Safety
/// Needs the instructions.
#[target_feature(enable = "dotprod")]
unsafe fn row<const GROUP_LEN: usize>(weights: &UnpackedRow<'_>, input: &QuantizedRow<'_>) -> f32 {
    weights.check(input, GROUP_LEN);
    // SAFETY: every load stays below the number of codes, a multiple of 32, and of its scales.
    let mut lanes = unsafe {
        let zero = vdupq_n_s32(0);
        let mut sums = [vdupq_n_f32(0.0); 2];
        for i in 0..weights.codes.len() / GROUP {
            let codes = weights.codes.as_ptr().add(i * GROUP);
            let values = input.codes.as_ptr().add(i * GROUP);
            let scale = weights.scales.as_ptr().add(i * GROUP / GROUP_LEN);
            let input_scale = input.scales[i];
            let first = add_dots(zero, vld1q_s8(codes), vld1q_s8(values));
            let (codes, values) = (vld1q_s8(codes.add(16)), vld1q_s8(values.add(16)));
            if GROUP_LEN == GROUP {
                let dots = vcvtq_f32_s32(add_dots(first, codes, values));
                sums[i % 2] = vfmaq_n_f32(sums[i % 2], dots, *scale * input_scale);
            } else {
                let second = add_dots(zero, codes, values);
                sums[0] = vfmaq_n_f32(sums[0], vcvtq_f32_s32(first), *scale * input_scale);
                sums[1] = vfmaq_n_f32(sums[1], vcvtq_f32_s32(second), *scale.add(1) * input_scale);
            }
        }
        let mut lanes = [0f32; 4];
        vst1q_f32(lanes.as_mut_ptr(), vaddq_f32(sums[0], sums[1]));
        lanes
    };
    for (mins, sums) in weights.mins.chunks(4).zip(input.sums.chunks(4)) {
        for ((lane, min), sum) in lanes.iter_mut().zip(mins).zip(sums) {
            *lane -= min * sum;
        }
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// Sixteen rows times an input, in the order in which panels are added up.
///
/// # Safety
/// Needs the instructions; panel and input must have so many groups.
#[target_feature(enable = "dotprod")]
unsafe fn one_input<const GROUP_LEN: usize>(
    panel: &Panel<'_>,
    input: &QuantizedRow<'_>,
    groups: usize,
    out: &mut [f32; PANEL],
) {
    // SAFETY: the caller checked all lengths against `groups`.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 4];
        for group in 0..groups {
            let mut dots = [vdupq_n_s32(0); 4];
            for four in group * GROUP_LEN / 4..(group + 1) * GROUP_LEN / 4 {
                let inputs = vld1q_dup_s32(input.codes.as_ptr().cast::<i32>().add(four));
                let codes = panel.codes.as_ptr().cast::<i8>().add(four * 4 * PANEL);
                for (quarter, dots) in dots.iter_mut().enumerate() {
                    *dots = add_dots(*dots, vld1q_s8(codes.add(quarter * 16)), vreinterpretq_s8_s32(inputs));
                }
            }
            let input_scale = input.scales[group * GROUP_LEN / GROUP];
            for (quarter, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
                let at = group * PANEL + quarter * 4;
                let factors = vmulq_n_f32(vld1q_f32(panel.scales.as_ptr().add(at)), input_scale);
                *sums = vfmaq_f32(*sums, vcvtq_f32_s32(dots), factors);
                if !panel.mins.is_empty() {
                    let mins = vld1q_f32(panel.mins.as_ptr().add(at));
                    *sums = vfmsq_n_f32(*sums, mins, input.sums[group]);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.as_chunks_mut::<4>().0) {
            vst1q_f32(out.as_mut_ptr(), sums);
        }
    }
}

#[target_feature(enable = "dotprod")]
pub(super) unsafe fn rows_of_blocks<B: Block>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: compiled for the instructions; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { blocks::rows_body::<B, NeonDot>(job, range) }
}

/// Few inputs take rows sixteen numbers at a time: the compiler would widen each F16 with whole numbers.
pub(super) unsafe fn rows_of_floats<F: Float>(job: &Job<'_>, range: Range<usize>) {
    if job.picks.len() >= job.inputs.wide() {
        // SAFETY: there are no pointers; the rows of these outputs are this task's own, as `RowsFn` has it.
        return unsafe { floats::rows_body::<F, true>(job, range) };
    }
    for row in range {
        let weights = floats::weights::<F>(job, row);
        for pick in job.picks.iter() {
            let input = job.inputs.row(pick.input);
            let sum = Isa::NeonDot.run(RowDot::<F> { weights, input, format: std::marker::PhantomData });
            // SAFETY: the caller has this row of the outputs of all picks.
            unsafe { job.output.slice(pick.output, row..row + 1)[0] = sum };
        }
    }
}

/// A row of floats times an input, added up as `floats.rs` does it.
struct RowDot<'a, F> {
    weights: &'a [u8],
    input: &'a [f32],
    format: std::marker::PhantomData<F>,
}

impl<F: Float> Work for RowDot<'_, F> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let mut sums = [L::splat(0.0); 4];
        let (chunks, rest) = self.input.as_chunks::<{ 4 * LANES }>();
        let bytes = 4 * LANES * size_of::<F>();
        for (values, weights) in chunks.iter().zip(self.weights.chunks_exact(bytes)) {
            let weights = weights.chunks_exact(bytes / 4);
            for ((sum, values), weights) in sums.iter_mut().zip(values.as_chunks().0).zip(weights) {
                *sum = F::load::<L>(weights).multiply_add(L::load(values), *sum);
            }
        }
        let [a, b, c, d] = sums;
        let sum = ((a + c) + (b + d)).sum();
        let done = self.input.len() - rest.len();
        rest.iter()
            .enumerate()
            .fold(sum, |sum, (i, value)| floats::load::<F>(self.weights, done + i).mul_add(*value, sum))
    }
}
