//! How the weights of a matrix lie in memory: what [`Layout::pack`] writes, the kernels read.
//!
//! Every expert is packed exactly once, on its way from the file into its slot, whatever the memory budget: so results
//! do not depend on what is cached. `panels/` says what a panel is and which formats have one.

use super::matrix::{Layout, MatrixRef, PANEL};
use super::panels;
use crate::quant::Format;
use crate::simd::Isa;

impl Layout {
    /// Packing may go piece by piece in multiples of so many rows; only the last piece may have fewer. Four panels end
    /// where a line of the cache does.
    pub(crate) const ROWS_TOGETHER: usize = 4 * PANEL;

    /// What the kernels of an instruction set want of a format: always the same. This alone decides what lies in panels.
    pub(crate) fn of(isa: Isa, format: &Format) -> Self {
        match isa {
            Isa::Portable => Self::Rows,
            _ if panels::of(format).is_some() => Self::Panels,
            _ => Self::Rows,
        }
    }

    /// Packs whole rows of the file's layout into `out`, which has as many bytes.
    ///
    /// # Panics
    /// When `rows` are packed already, the format has no panels, or `out` has another length.
    pub(crate) fn pack(self, rows: MatrixRef<'_>, out: &mut [u8]) {
        assert_eq!(rows.layout, Self::Rows);
        match self {
            Self::Rows => out.copy_from_slice(rows.bytes),
            Self::Panels => panels::of(rows.format).expect("a format with panels").pack(rows, out),
        }
    }
}
