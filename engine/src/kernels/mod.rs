//! Matrix kernels: weights in any format times activations, for every instruction set.
//!
//! One generic body per kind (`blocks.rs`, `floats.rs`) is compiled for each instruction set (`portable.rs`,
//! `avx2.rs`, `avx512.rs`, `neon.rs`), which supply the inner loops. The choice is made once per matrix, by format and
//! [`Isa`]; inside, only the number of input rows decides, so results do not depend on threads or caches. Packed
//! matrices (`layout.rs`) have kernels of their own in `panels/`.
#![allow(unsafe_code)]
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "no set of instructions there has panels")
)]

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod experts;
mod floats;
mod layout;
mod low_rank;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod portable;
mod recurrence;
#[cfg(test)]
mod tests;

use activations::QuantizeRow;
pub(crate) use activations::{Inputs, Quantized};
pub(crate) use attention::{AttentionTask, CachedPages, Queries, RowBlock, attention, select_attention};
pub(crate) use experts::{
    Dispatch, ExpertKernel, ExpertMatrices, Hidden, Share, SlotCodes, down, hidden, quantize_slots,
};
pub(crate) use layout::Layout;
pub(crate) use low_rank::LowRank;
pub(crate) use recurrence::{Convolution, STATE_COLUMNS, Scan, ScanHead, Taken, convolve, scan};

use crate::quant::{Block, Float, Format, Grain, Visit, visit};
use crate::simd::Isa;
use crate::threads::{SharedSlice, Team};
use std::ops::Range;

/// Rows of a panel: one lane of a 512-bit register each.
const PANEL: usize = 16;

/// From this many input rows on, weights are unpacked into panels that all inputs share.
const WIDE: usize = 4;

/// A matrix. `bytes` holds exactly `rows * cols` weights.
#[derive(Clone, Copy)]
pub(crate) struct MatrixRef<'a> {
    /// How the weights are stored.
    pub(crate) format: &'static Format,
    /// Output width.
    pub(crate) rows: usize,
    /// Input width.
    pub(crate) cols: usize,
    /// How the rows lie.
    pub(crate) layout: Layout,
    /// The blocks.
    pub(crate) bytes: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// Bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols)
    }

    /// The rows of `range` as a matrix of their own.
    ///
    /// # Panics
    /// When they do not lie one after the other.
    pub(crate) fn slice_rows(&self, range: Range<usize>) -> MatrixRef<'a> {
        assert_eq!(self.layout, Layout::Rows);
        let bytes = &self.bytes[range.start * self.row_bytes()..range.end * self.row_bytes()];
        MatrixRef { rows: range.len(), bytes, ..*self }
    }

    /// One row as floats.
    pub(crate) fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        (self.format.dequantize)(self.slice_rows(row..row + 1).bytes, &mut out[..self.cols]);
    }
}

/// Which input row goes to which output row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Row of the inputs.
    pub(crate) input: u32,
    /// Row of the output.
    pub(crate) output: u32,
}

/// Where results go: row-major, `stride` wide, the matrix' first output at column `at`.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    /// The whole buffer.
    pub(crate) values: SharedSlice<'a, f32>,
    /// Width of an output row.
    pub(crate) stride: usize,
    /// Column of the matrix' first row.
    pub(crate) at: usize,
}

impl<'a> Output<'a> {
    /// A buffer of rows `stride` wide that receives a matrix' outputs at column `at`.
    pub(crate) fn new(values: &'a mut [f32], stride: usize, at: usize) -> Self {
        Self { values: SharedSlice::new(values), stride, at }
    }

    /// The places of `rows` in output row `row`.
    ///
    /// # Safety
    /// No other task may hold the same places.
    #[inline(always)]
    unsafe fn slice(&self, row: u32, rows: Range<usize>) -> &'a mut [f32] {
        let start = row as usize * self.stride + self.at + rows.start;
        // SAFETY: passed on to the caller.
        unsafe { self.values.slice(start, rows.len()) }
    }
}

/// A matmul: some rows of a matrix times picked input rows.
pub(crate) struct Job<'a> {
    /// The weights.
    pub(crate) matrix: MatrixRef<'a>,
    /// The activations; quantized ones where the format stores blocks.
    pub(crate) inputs: Inputs<'a>,
    /// Which inputs, and where each result row goes.
    pub(crate) picks: &'a [Pick],
    /// Where the results go.
    pub(crate) output: Output<'a>,
}

type RowsFn = unsafe fn(&Job<'_>, Range<usize>);

/// The code that computes matrices of one format on one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    rows: RowsFn,
    /// The same for packed matrices of this instruction set's layout.
    packed: RowsFn,
    /// How activations are quantized, `None` where they are not.
    inputs: Option<Grain>,
    isa: Isa,
}

/// Picks the kernel of a format for an instruction set.
///
/// # Panics
/// When this machine lacks the instruction set.
pub(crate) fn select(format: &Format, isa: Isa) -> Kernel {
    assert!(isa.is_available(), "{isa} is not available");
    let kernel = visit(format, Select(isa));
    match panels::of(format) {
        Some(panels) if Layout::of(isa) == Layout::Panels => Kernel { packed: panels.rows(isa), ..kernel },
        _ => kernel,
    }
}

struct Select(Isa);

impl Visit for Select {
    type Output = Kernel;

    fn blocks<B: Block>(self) -> Kernel {
        let rows: RowsFn = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Amx => avx512::rows_of_blocks::<B>,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::rows_of_blocks::<B, false>,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avx2::rows_of_blocks::<B, true>,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot | Isa::NeonI8mm => neon::rows_of_blocks::<B>,
            _ => portable::rows_of_blocks::<B>,
        };
        Kernel { rows, packed: rows, inputs: Some(B::INPUTS), isa: self.0 }
    }

    fn float<F: Float>(self) -> Kernel {
        let rows: RowsFn = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Amx => avx512::rows_of_floats::<F>,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2::rows_of_floats::<F>,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot | Isa::NeonI8mm => neon::rows_of_floats::<F>,
            _ => portable::rows_of_floats::<F>,
        };
        Kernel { rows, packed: rows, inputs: None, isa: self.0 }
    }
}

impl Kernel {
    /// How activations must be quantized, if they must.
    pub(crate) fn inputs(&self) -> Option<Grain> {
        self.inputs
    }

    /// Whether many inputs may be shared out among tasks: unpacking weights for some of them costs little. Rows unpacked
    /// into panels, and weights made into tiles for the matrix unit, should meet all of them.
    fn takes_inputs_apart(&self, job: &Job<'_>) -> bool {
        job.matrix.layout.is_other_than_rows(job.matrix.format) && self.isa != Isa::Amx
    }

    /// Quantizes one row of activations, where the kernel wants that.
    pub(crate) fn quantize(&self, row: &[f32], out: &mut Quantized<'_>) {
        if let Some(grain) = self.inputs {
            self.isa.run(QuantizeRow(row, grain, out));
        }
    }

    /// Computes the matrix rows of `range` for all picks of the job.
    ///
    /// # Safety
    /// No other task may write the same rows of the same output rows meanwhile.
    ///
    /// # Panics
    /// When shapes do not fit: callers check them once, when weights are bound.
    pub(crate) unsafe fn rows(&self, job: &Job<'_>, range: Range<usize>) {
        assert!(range.end <= job.matrix.rows);
        assert_eq!(job.matrix.bytes.len(), job.matrix.row_bytes() * job.matrix.rows);
        assert_eq!(job.inputs.width(), job.matrix.cols);
        let rows = match job.matrix.layout {
            Layout::Rows => self.rows,
            Layout::Panels => self.packed,
        };
        // SAFETY: `select` made sure of the instructions; disjoint outputs are the caller's promise.
        unsafe { rows(job, range) }
    }
}

/// Makes room for `len` values; what is there stays.
pub(crate) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Asks for a cache line that will be read soon.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it reads nothing, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: likewise.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Asks for a cache line that will be asked for again: no nearer than the second-level cache.
#[inline(always)]
fn prefetch_far(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Rows of a matrix that one task takes: whole panels, several tasks per thread.
pub(crate) fn rows_per_task(rows: usize, threads: usize) -> usize {
    if threads == 1 {
        return rows.max(1);
    }
    (rows / (threads * 8)).next_multiple_of(PANEL).clamp(PANEL, 1024)
}

/// Inputs of a task of a matrix, where there are that many: whole tiles on every instruction set. Each task lays its
/// inputs out anew, so it takes some of them and many rows rather than all of them and few rows.
const INPUTS_PER_TASK: usize = 96;

/// Runs a whole job on the team.
pub(crate) fn matmul(team: &Team, kernel: Kernel, job: &Job<'_>) {
    let (rows, inputs) = (job.matrix.rows, job.picks.len());
    let shares = if kernel.takes_inputs_apart(job) { (inputs / INPUTS_PER_TASK).max(1) } else { 1 };
    let chunk = rows_per_task(rows * shares, team.threads());
    // Tasks with the same rows follow each other: the weights are at hand.
    team.run(rows.div_ceil(chunk) * shares, |task| {
        let (start, share) = (task / shares * chunk, task % shares);
        let end = if share + 1 == shares { inputs } else { (share + 1) * INPUTS_PER_TASK };
        let job = Job { picks: &job.picks[share * INPUTS_PER_TASK..end], ..*job };
        // SAFETY: tasks write other rows of the matrix or other rows of the output.
        unsafe { kernel.rows(&job, start..rows.min(start + chunk)) }
    });
}
