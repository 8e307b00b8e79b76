//! The code of a matrix' format: chosen once per matrix, and run on the team.
//!
//! The choice is made by format and [`Isa`]; inside, only the number of input rows decides, so results do not depend on
//! threads or caches.

use super::activations::{QuantizeRow, Quantized};
use super::job::{Job, RowsFn};
use super::matrix::{Layout, PANEL};
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{panels, portable};
use crate::quant::{Block, Float, Format, Grain, Visit, visit};
use crate::simd::Isa;
use crate::threads::Team;
use std::ops::Range;

/// The code that computes matrices of one format on one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    rows: RowsFn,
    /// The same for panels, where the instruction set wants the format so.
    packed: Option<RowsFn>,
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
        Some(panels) if Layout::of(isa, format) == Layout::Panels => {
            Kernel { packed: Some(panels.rows(isa)), ..kernel }
        }
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
        Kernel { rows, packed: None, inputs: Some(B::INPUTS), isa: self.0 }
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
        Kernel { rows, packed: None, inputs: None, isa: self.0 }
    }
}

impl Kernel {
    /// The instruction set.
    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    /// How activations must be quantized, if they must.
    pub(crate) fn inputs(&self) -> Option<Grain> {
        self.inputs
    }

    /// Whether many inputs may be shared out among tasks: unpacking weights for some of them costs little. Rows unpacked
    /// into panels, and weights made into tiles for the matrix unit, should meet all of them.
    fn takes_inputs_apart(&self, job: &Job<'_>) -> bool {
        job.matrix.layout == Layout::Panels && self.isa != Isa::Amx
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
    /// No other task may write the same rows of the same outputs meanwhile.
    ///
    /// # Panics
    /// When the matrix has no such rows, or lies as no kernel of the set wants it.
    pub(super) unsafe fn rows(&self, job: &Job<'_>, range: Range<usize>) {
        assert!(range.end <= job.matrix.rows);
        let rows = match job.matrix.layout {
            Layout::Rows => self.rows,
            Layout::Panels => self.packed.expect("panels of a format and a set that have them"),
        };
        // SAFETY: `select`, which alone makes kernels, made sure of the instructions; the caller's outputs are its own.
        unsafe { rows(job, range) }
    }
}

/// Rows of a matrix that one task takes: whole panels, several tasks per thread.
pub(super) fn rows_per_task(rows: usize, threads: usize) -> usize {
    if threads == 1 {
        return rows.max(1);
    }
    (rows / (threads * 8)).next_multiple_of(PANEL).clamp(PANEL, 1024)
}

/// Inputs of a task of a matrix, where there are that many: whole tiles on every instruction set. Each task lays its
/// inputs out anew, so it takes some of them and many rows rather than all of them and few rows.
const INPUTS_PER_TASK: usize = 96;

/// Runs a whole job on the team.
pub(crate) fn matmul(team: &Team, kernel: Kernel, job: Job<'_>) {
    let (rows, inputs) = (job.matrix.rows, job.picks.len());
    let shares = if kernel.takes_inputs_apart(&job) { (inputs / INPUTS_PER_TASK).max(1) } else { 1 };
    let chunk = rows_per_task(rows * shares, team.threads());
    // Tasks with the same rows follow each other: the weights are at hand.
    team.run(rows.div_ceil(chunk) * shares, |task| {
        let (start, share) = (task / shares * chunk, task % shares);
        let end = if share + 1 == shares { inputs } else { (share + 1) * INPUTS_PER_TASK };
        let part = job.part(share * INPUTS_PER_TASK..end);
        // SAFETY: a task has its own rows of the matrix or its own picks, and so its own places; the output came by
        // value, so no other job has it.
        unsafe { kernel.rows(&part, start..rows.min(start + chunk)) }
    });
}
