//! The inner loops in plain Rust: what every other instruction set is compared with.

use super::activations::{GROUP, QuantizedRow};
use super::blocks::{ByteDots, Panel, Shape, UnpackedRow};
use super::job::Job;
use super::matrix::PANEL;
use super::{blocks, floats};
use crate::quant::{Block, Float};
use std::ops::Range;

struct Portable;

impl ByteDots for Portable {
    type Widen = crate::quant::Portable;
    const OFFSET_CODES: bool = false;

    unsafe fn row(weights: &UnpackedRow<'_>, input: &QuantizedRow<'_>, shape: Shape) -> f32 {
        weights.check(input, shape.group);
        let groups = weights.codes.chunks_exact(shape.group).zip(input.codes.chunks_exact(shape.group));
        let mut sum = 0.0;
        for (g, (codes, values)) in groups.enumerate() {
            let input_scale = input.scales[g * shape.group / GROUP];
            sum += weights.scales[g] * input_scale * byte_dot(codes, values) as f32;
        }
        sum - weights.mins.iter().zip(input.sums).map(|(min, sum)| min * sum).sum::<f32>()
    }

    unsafe fn panel<const N: usize>(panel: &Panel<'_>, inputs: &[QuantizedRow<'_>; N]) -> [[f32; PANEL]; N] {
        let mut sums = [[0f32; PANEL]; N];
        let group = panel.shape.group;
        for (g, codes) in panel.codes.chunks_exact(group * PANEL).enumerate() {
            for (sums, input) in sums.iter_mut().zip(inputs) {
                let dots = panel_dots(codes, &input.codes[g * group..][..group]);
                let input_scale = input.scales[g * group / GROUP];
                for lane in 0..PANEL {
                    sums[lane] += dots[lane] as f32 * (panel.scales[g * PANEL + lane] * input_scale);
                    if !panel.mins.is_empty() {
                        sums[lane] -= panel.mins[g * PANEL + lane] * input.sums[g];
                    }
                }
            }
        }
        sums
    }
}

#[inline(always)]
fn byte_dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| a as i32 * b as i32).sum()
}

#[inline(always)]
fn panel_dots(codes: &[u8], input: &[i8]) -> [i32; PANEL] {
    let mut dots = [0i32; PANEL];
    for (codes, input) in codes.as_chunks::<{ 4 * PANEL }>().0.iter().zip(input.as_chunks::<4>().0) {
        for (dot, codes) in dots.iter_mut().zip(codes.as_chunks::<4>().0) {
            *dot += byte_dot(&codes.map(|code| code as i8), input);
        }
    }
    dots
}

pub(super) unsafe fn rows_of_blocks<B: Block>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: there are no special instructions; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { blocks::rows_body::<B, Portable>(job, range) }
}

pub(super) unsafe fn rows_of_floats<F: Float>(job: &Job<'_>, range: Range<usize>) {
    // SAFETY: there are no pointers; the rows of these outputs are this task's own, as `RowsFn` has it.
    unsafe { floats::rows_body::<F, false>(job, range) }
}
