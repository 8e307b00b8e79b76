//! How the weights of a matrix lie in memory: what [`Layout::pack`] writes, the kernels read.
//!
//! Every expert is packed exactly once, on its way from the file into its slot, whatever the memory budget: so results
//! do not depend on what is cached. `panels/` says what a panel is and which formats have one.

use super::{MatrixRef, PANEL, panels};
use crate::quant::Format;
use crate::simd::Isa;

/// One way for weights to lie. An instruction set has one, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row after row, as in the file.
    Rows,
    /// Formats with a panel kernel sixteen rows side by side, all others row after row.
    Panels,
}

impl Layout {
    /// Packing may go piece by piece in multiples of so many rows; only the last piece may have fewer. Four panels end
    /// where a line of the cache does.
    pub(crate) const ROWS_TOGETHER: usize = 4 * PANEL;

    /// What the kernels of an instruction set want.
    pub(crate) fn of(isa: Isa) -> Self {
        match isa {
            Isa::Portable => Self::Rows,
            _ => Self::Panels,
        }
    }

    /// Whether packing moves the bytes of this format at all.
    pub(crate) fn is_other_than_rows(self, format: &Format) -> bool {
        self == Self::Panels && panels::of(format).is_some()
    }

    /// Bytes of a packed matrix of `rows` outputs and `cols` inputs: as many as in the file.
    pub(crate) fn packed_bytes(self, format: &Format, rows: usize, cols: usize) -> usize {
        rows * format.row_bytes(cols)
    }

    /// Packs whole rows of the file's layout into `out`, which has [`Layout::packed_bytes`].
    ///
    /// # Panics
    /// When `rows` are packed already or `out` has another length.
    pub(crate) fn pack(self, rows: MatrixRef<'_>, out: &mut [u8]) {
        assert_eq!(rows.layout, Self::Rows);
        match panels::of(rows.format) {
            Some(panels) if self == Self::Panels => panels.pack(rows, out),
            _ => out.copy_from_slice(rows.bytes),
        }
    }
}
