//! The generic kernel of all block formats: unpack to signed bytes with scales, then byte dots.
//!
//! Few inputs: a row is unpacked and dotted with each. Many inputs: sixteen rows are unpacked into a panel
//! (four neighbouring codes of each row side by side) which every input then passes. No format is named here.

use super::activations::QuantizedRow;
use super::cache::{grow, prefetch};
use super::job::{Job, Pick};
use super::matrix::PANEL;
use crate::quant::{Block, Widen};
use std::cell::RefCell;
use std::ops::Range;

/// Inputs that pass a panel together, so that each of its registers is loaded once for all.
const TILE: usize = 8;

/// How far ahead of the block being unpacked weights are asked for: rows follow each other in memory.
const PREFETCH: usize = 2048;

/// The inner loops of one instruction set. Integer sums are exact and equal on all of them.
///
/// # Safety
/// Functions need the instructions of the implementing set. Lengths they check themselves.
pub(super) trait ByteDots {
    /// How F16 scales are widened: by instructions of the set, too, so nobody else may use it.
    type Widen: Widen;
    /// Whether panels hold `code + 128` for formats with signed codes.
    const OFFSET_CODES: bool;

    /// One row times one input.
    unsafe fn row(row: &UnpackedRow<'_>, input: &QuantizedRow<'_>, shape: Shape) -> f32;

    /// The panel's sixteen rows times `N` inputs.
    unsafe fn panel<const N: usize>(panel: &Panel<'_>, inputs: &[QuantizedRow<'_>; N]) -> [[f32; PANEL]; N];
}

/// What the inner loops need to know of a format.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Weights per scale: 16 or 32.
    pub(super) group: usize,
    /// Whether codes may be negative.
    pub(super) signed: bool,
}

/// Evaluates a call with a format's shape as constants, so that an inner loop is compiled once per shape.
#[cfg(target_arch = "x86_64")]
macro_rules! by_shape {
    ($shape:expr, |$group:ident, $signed:ident| $call:expr) => {
        match ($shape.group, $shape.signed) {
            (16, false) => by_shape!(@ $group = 16, $signed = false, $call),
            (16, true) => by_shape!(@ $group = 16, $signed = true, $call),
            (_, false) => by_shape!(@ $group = 32, $signed = false, $call),
            (_, true) => by_shape!(@ $group = 32, $signed = true, $call),
        }
    };
    (@ $group:ident = $g:literal, $signed:ident = $s:literal, $call:expr) => {{
        const $group: usize = $g;
        const $signed: bool = $s;
        $call
    }};
}
#[cfg(target_arch = "x86_64")]
pub(super) use by_shape;

/// One unpacked row.
pub(super) struct UnpackedRow<'a> {
    pub(super) codes: &'a [i8],
    /// Per group.
    pub(super) scales: &'a [f32],
    /// Per group, empty where the format has none.
    pub(super) mins: &'a [f32],
}

impl UnpackedRow<'_> {
    /// Checks once per row what bounds every load of the inner loops.
    #[inline(always)]
    pub(super) fn check(&self, input: &QuantizedRow<'_>, group: usize) {
        let groups = self.codes.len() / group;
        assert!(
            input.codes.len() == self.codes.len()
                && self.scales.len() == groups
                && input.sums.len() == groups
        );
        assert!(
            input.scales.len() == self.codes.len() / 32
                && (self.mins.is_empty() || self.mins.len() == groups)
        );
    }
}

/// Sixteen unpacked rows.
pub(super) struct Panel<'a> {
    /// `(cols / 4, 16, 4)`.
    pub(super) codes: &'a [u8],
    /// `(groups, 16)`.
    pub(super) scales: &'a [f32],
    /// `(groups, 16)`, empty where the format has none.
    pub(super) mins: &'a [f32],
    pub(super) shape: Shape,
}

impl Panel<'_> {
    /// Groups of a row, after checking once what bounds every load of the inner loops.
    #[inline(always)]
    pub(super) fn check(&self, inputs: &[QuantizedRow<'_>], group: usize) -> usize {
        let groups = self.codes.len() / (group * PANEL);
        assert!(
            self.scales.len() == groups * PANEL
                && (self.mins.is_empty() || self.mins.len() == groups * PANEL)
        );
        for input in inputs {
            input.check(groups * group, group);
        }
        groups
    }
}

/// An unpacked row, and the arrays of a [`Panel`].
#[derive(Default)]
struct Buffers {
    codes: Vec<i8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
    panel: Vec<u8>,
    panel_scales: Vec<f32>,
    panel_mins: Vec<f32>,
}

thread_local! {
    /// Grows to the longest row once per thread.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl Buffers {
    fn prepare(&mut self, cols: usize, group: usize) {
        let groups = cols / group;
        grow(&mut self.codes, cols);
        grow(&mut self.scales, groups);
        grow(&mut self.mins, groups);
        grow(&mut self.panel, cols * PANEL);
        grow(&mut self.panel_scales, groups * PANEL);
        grow(&mut self.panel_mins, groups * PANEL);
    }
}

/// The body of every `rows_of_blocks`.
///
/// # Safety
/// The instructions of `D` must be available and the outputs of `range` this task's own.
#[inline(always)]
pub(super) unsafe fn rows_body<B: Block, D: ByteDots>(job: &Job<'_>, range: Range<usize>) {
    // Taken out and put back: a closure would be compiled without the caller's instructions.
    let mut buffers = BUFFERS.take();
    buffers.prepare(job.matrix.cols, B::GROUP);
    // SAFETY: the caller has the instructions of `D` and the outputs of `range`.
    unsafe {
        if job.picks.len() < job.inputs.wide() {
            narrow::<B, D>(job, range, &mut buffers);
        } else {
            wide::<B, D>(job, range, &mut buffers);
        }
    }
    BUFFERS.set(buffers);
}

#[inline(always)]
const fn shape_of<B: Block>() -> Shape {
    Shape { group: B::GROUP, signed: !B::HAS_MIN }
}

#[inline(always)]
fn unpack_row<B: Block, D: ByteDots>(job: &Job<'_>, row: usize, buffers: &mut Buffers) {
    let row_bytes = job.matrix.row_bytes();
    let bytes = &job.matrix.bytes[row * row_bytes..][..row_bytes];
    let groups = B::LEN / B::GROUP;
    let codes = buffers.codes.chunks_exact_mut(B::LEN);
    let scales = buffers.scales.chunks_exact_mut(groups).zip(buffers.mins.chunks_exact_mut(groups));
    for ((block, codes), (scales, mins)) in bytes.chunks_exact(size_of::<B>()).zip(codes).zip(scales) {
        for line in 0..size_of::<B>().div_ceil(64) {
            prefetch(block.as_ptr().wrapping_add(PREFETCH + line * 64));
        }
        bytemuck::pod_read_unaligned::<B>(block).unpack::<D::Widen>(codes, scales, mins);
    }
}

#[inline(always)]
unsafe fn narrow<B: Block, D: ByteDots>(job: &Job<'_>, range: Range<usize>, buffers: &mut Buffers) {
    let cols = job.matrix.cols;
    let groups = cols / B::GROUP;
    for row in range {
        unpack_row::<B, D>(job, row, buffers);
        let unpacked = UnpackedRow {
            codes: &buffers.codes[..cols],
            scales: &buffers.scales[..groups],
            mins: if B::HAS_MIN { &buffers.mins[..groups] } else { &[] },
        };
        for pick in job.picks.iter() {
            let input = job.inputs.quantized::<B>(pick.input);
            // SAFETY: the caller has the instructions of `D`, and this row of the outputs of all picks.
            unsafe {
                let sum = D::row(&unpacked, &input, shape_of::<B>());
                job.output.slice(pick.output, row..row + 1)[0] = sum;
            }
        }
    }
}

#[inline(always)]
unsafe fn wide<B: Block, D: ByteDots>(job: &Job<'_>, range: Range<usize>, buffers: &mut Buffers) {
    let mut start = range.start;
    while start < range.end {
        let rows = start..range.end.min(start + PANEL);
        fill_panel::<B, D>(job, rows.clone(), buffers);
        // SAFETY: the caller has the instructions of `D`, and these rows, a part of the range, of all outputs.
        unsafe { pass_panel::<B, D>(job, rows, buffers) };
        start += PANEL;
    }
}

#[inline(always)]
fn fill_panel<B: Block, D: ByteDots>(job: &Job<'_>, rows: Range<usize>, buffers: &mut Buffers) {
    let (cols, groups) = (job.matrix.cols, job.matrix.cols / B::GROUP);
    let flip = if D::OFFSET_CODES && shape_of::<B>().signed { 0x8080_8080 } else { 0u32 };
    if rows.len() < PANEL {
        buffers.panel[..cols * PANEL].fill(0);
        buffers.panel_scales[..groups * PANEL].fill(0.0);
        buffers.panel_mins[..groups * PANEL].fill(0.0);
    }
    for (lane, row) in rows.enumerate() {
        unpack_row::<B, D>(job, row, buffers);
        let codes = buffers.codes[..cols].as_chunks::<4>().0;
        let panel = buffers.panel[..cols * PANEL].as_chunks_mut::<{ 4 * PANEL }>().0;
        for (codes, places) in codes.iter().zip(panel) {
            let four = u32::from_ne_bytes(codes.map(|code| code as u8)) ^ flip;
            places.as_chunks_mut::<4>().0[lane] = four.to_ne_bytes();
        }
        scatter(&buffers.scales[..groups], lane, &mut buffers.panel_scales);
        if B::HAS_MIN {
            scatter(&buffers.mins[..groups], lane, &mut buffers.panel_mins);
        }
    }
}

#[inline(always)]
fn scatter(values: &[f32], lane: usize, panel: &mut [f32]) {
    for (value, lanes) in values.iter().zip(panel.as_chunks_mut::<PANEL>().0) {
        lanes[lane] = *value;
    }
}

#[inline(always)]
unsafe fn pass_panel<B: Block, D: ByteDots>(job: &Job<'_>, rows: Range<usize>, buffers: &Buffers) {
    let (cols, groups) = (job.matrix.cols, job.matrix.cols / B::GROUP);
    let panel = Panel {
        codes: &buffers.panel[..cols * PANEL],
        scales: &buffers.panel_scales[..groups * PANEL],
        mins: if B::HAS_MIN { &buffers.panel_mins[..groups * PANEL] } else { &[] },
        shape: shape_of::<B>(),
    };
    let (tiles, rest) = job.picks.as_chunks::<TILE>();
    let (quads, singles) = rest.as_chunks::<4>();
    // SAFETY: the caller has the instructions of `D`, and these rows of all outputs; each pick is in one of the three.
    unsafe {
        for tile in tiles {
            pass_tile::<B, D, TILE>(job, &rows, &panel, tile);
        }
        for quad in quads {
            pass_tile::<B, D, 4>(job, &rows, &panel, quad);
        }
        for single in singles {
            pass_tile::<B, D, 1>(job, &rows, &panel, &[*single]);
        }
    }
}

#[inline(always)]
unsafe fn pass_tile<B: Block, D: ByteDots, const N: usize>(
    job: &Job<'_>,
    rows: &Range<usize>,
    panel: &Panel<'_>,
    picks: &[Pick; N],
) {
    let inputs = picks.map(|pick| job.inputs.quantized::<B>(pick.input));
    // SAFETY: the caller has the instructions of `D`, which alone are asked for.
    let sums = unsafe { D::panel(panel, &inputs) };
    for (pick, sums) in picks.iter().zip(&sums) {
        // SAFETY: these rows of this output belong to this task.
        let places = unsafe { job.output.slice(pick.output, rows.clone()) };
        places.copy_from_slice(&sums[..rows.len()]);
    }
}
