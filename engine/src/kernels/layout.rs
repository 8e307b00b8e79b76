//! How the weights of an expert's matrix lie in memory: what [`Layout::pack`] writes, the kernels read.
//!
//! Every expert is packed exactly once, on its way from the file into its slot, whatever the memory budget: so results
//! do not depend on what is cached. Dense weights are read through the mapping, as they lie in the file.

use super::{MatrixRef, PANEL};
use crate::quant::Format;
use crate::simd::Isa;

/// One way for weights to lie. An instruction set has one, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row after row, as in the file.
    Rows,
}

impl Layout {
    /// Packing may go piece by piece in multiples of so many rows; only the last piece may have fewer.
    pub const ROWS_TOGETHER: usize = PANEL;

    /// What the kernels of an instruction set want.
    pub fn of(_isa: Isa) -> Self {
        Self::Rows
    }

    /// Bytes of a packed matrix of `rows` outputs and `cols` inputs.
    pub fn packed_bytes(self, format: &Format, rows: usize, cols: usize) -> usize {
        match self {
            Self::Rows => rows * (cols / format.block_len * format.block_bytes),
        }
    }

    /// Packs whole rows of the file's layout into `out`, which has [`Layout::packed_bytes`].
    pub fn pack(self, rows: MatrixRef<'_>, out: &mut [u8]) {
        match self {
            Self::Rows => out.copy_from_slice(rows.bytes),
        }
    }
}
