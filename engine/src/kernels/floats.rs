//! The generic kernel of F32, F16 and BF16 weights: activations stay f32.
//!
//! Few inputs: dots along the row in 64 running sums. Many inputs: panels of sixteen rows, a slice of the row
//! length at a time so that the panel stays in the first-level cache.

use super::job::{Job, Pick};
use super::matrix::PANEL;
use crate::quant::Float;
use std::cell::RefCell;
use std::ops::Range;

/// Columns of a panel slice: 32 KiB of f32.
const SLICE: usize = 512;
/// Inputs that pass a panel together.
const TILE: usize = 8;
/// Running sums of a row dot.
const LANES: usize = 64;

#[derive(Default)]
struct Buffers {
    panel: Vec<f32>,
    totals: Vec<[f32; PANEL]>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Multiply and add; fused where the instruction set has it.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, sum: f32) -> f32 {
    if FMA { a.mul_add(b, sum) } else { a * b + sum }
}

/// The body of every `rows_of_floats`.
///
/// # Safety
/// The outputs of `range` must be this task's own.
#[inline(always)]
pub(super) unsafe fn rows_body<F: Float, const FMA: bool>(job: &Job<'_>, range: Range<usize>) {
    if job.picks.len() >= job.inputs.wide() {
        // Taken out and put back: a closure would be compiled without the caller's instructions.
        let mut buffers = BUFFERS.take();
        for start in range.clone().step_by(PANEL) {
            let rows = start..range.end.min(start + PANEL);
            wide::<F, FMA>(job, rows.clone(), &mut buffers);
            // SAFETY: the caller has these rows, a part of the range, of all outputs.
            unsafe { store(job, rows, &buffers.totals) };
        }
        BUFFERS.set(buffers);
        return;
    }
    for row in range {
        for pick in job.picks.iter() {
            let sum = row_dot::<F, FMA>(weights::<F>(job, row), job.inputs.row(pick.input));
            // SAFETY: the caller has this row of the outputs of all picks.
            unsafe { job.output.slice(pick.output, row..row + 1)[0] = sum };
        }
    }
}

#[inline(always)]
pub(super) fn weights<'a, F: Float>(job: &Job<'a>, row: usize) -> &'a [u8] {
    &job.matrix.bytes[row * job.matrix.cols * size_of::<F>()..][..job.matrix.cols * size_of::<F>()]
}

#[inline(always)]
pub(super) fn load<F: Float>(bytes: &[u8], i: usize) -> f32 {
    bytemuck::pod_read_unaligned::<F>(&bytes[i * size_of::<F>()..][..size_of::<F>()]).to_f32()
}

#[inline(always)]
fn row_dot<F: Float, const FMA: bool>(weights: &[u8], input: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = input.as_chunks::<LANES>();
    for (chunk, weights) in chunks.iter().zip(weights.chunks_exact(LANES * size_of::<F>())) {
        for (i, (lane, value)) in lanes.iter_mut().zip(chunk).enumerate() {
            *lane = multiply_add::<FMA>(load::<F>(weights, i), *value, *lane);
        }
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    let done = chunks.len() * LANES;
    rest.iter()
        .enumerate()
        .fold(lanes[0], |sum, (i, value)| multiply_add::<FMA>(load::<F>(weights, done + i), *value, sum))
}

#[inline(always)]
fn wide<F: Float, const FMA: bool>(job: &Job<'_>, rows: Range<usize>, buffers: &mut Buffers) {
    let cols = job.matrix.cols;
    buffers.panel.resize(SLICE * PANEL, 0.0);
    buffers.totals.clear();
    buffers.totals.resize(job.picks.len(), [0.0; PANEL]);
    for start in (0..cols).step_by(SLICE) {
        let len = SLICE.min(cols - start);
        for lane in 0..PANEL {
            // A tail panel repeats its last row; the surplus lanes are never stored.
            let row = weights::<F>(job, rows.start + lane.min(rows.len() - 1));
            let row = &row[start * size_of::<F>()..][..len * size_of::<F>()];
            for (i, places) in buffers.panel[..len * PANEL].as_chunks_mut::<PANEL>().0.iter_mut().enumerate()
            {
                places[lane] = load::<F>(row, i);
            }
        }
        let panel = buffers.panel[..len * PANEL].as_chunks::<PANEL>().0;
        pass::<FMA>(job, start, panel, &mut buffers.totals);
    }
}

#[inline(always)]
fn pass<const FMA: bool>(job: &Job<'_>, start: usize, panel: &[[f32; PANEL]], totals: &mut [[f32; PANEL]]) {
    let (tiles, rest) = job.picks.as_chunks::<TILE>();
    let (tile_totals, rest_totals) = totals.as_chunks_mut::<TILE>();
    for (picks, totals) in tiles.iter().zip(tile_totals) {
        pass_tile::<FMA, TILE>(job, start, panel, picks, totals);
    }
    for (pick, totals) in rest.iter().zip(rest_totals) {
        pass_tile::<FMA, 1>(job, start, panel, &[*pick], std::array::from_mut(totals));
    }
}

#[inline(always)]
fn pass_tile<const FMA: bool, const N: usize>(
    job: &Job<'_>,
    start: usize,
    panel: &[[f32; PANEL]],
    picks: &[Pick; N],
    totals: &mut [[f32; PANEL]; N],
) {
    let inputs = picks.map(|pick| &job.inputs.row(pick.input)[start..start + panel.len()]);
    let mut sums = *totals;
    for (k, weights) in panel.iter().enumerate() {
        for (sums, input) in sums.iter_mut().zip(inputs) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = multiply_add::<FMA>(*weight, input[k], *sum);
            }
        }
    }
    *totals = sums;
}

unsafe fn store(job: &Job<'_>, rows: Range<usize>, totals: &[[f32; PANEL]]) {
    for (pick, totals) in job.picks.iter().zip(totals) {
        // SAFETY: the caller has these rows of the outputs of all picks.
        let places = unsafe { job.output.slice(pick.output, rows.clone()) };
        places.copy_from_slice(&totals[..rows.len()]);
    }
}
