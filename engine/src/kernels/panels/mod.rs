//! Panels: the blocks of sixteen rows side by side, word by word, so that a register holds four weights of each row.
//!
//! A panel has the bytes of its rows, in another order. Every column of blocks has 32-bit words, the same one of every row,
//! and in the order in which a pass needs them: memory that is read along one line comes without being asked for. The
//! blocks' bytes that make no whole word (an F16 scale at either end) come before them or behind them, row by row, so
//! that words lie on lines of the cache. Codes stay packed in their bits. This file owns the table of formats;
//! `packing.rs` makes panels of rows, `formats.rs` and `codes.rs` read blocks out of a panel, `tiles.rs` lays inputs side
//! by side, `products.rs` multiplies both over `words.rs`, compiled in `avx2.rs`, which has `unpacked.rs` for many inputs,
//! and `avx512.rs`. Q2_K has products of its own there (`whole_avx2.rs`, `whole.rs`). `bf16.rs` makes tiles of BF16 of
//! both, which `amx.rs` multiplies by the tile unit (`unit.rs`).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod codes;
#[cfg(target_arch = "x86_64")]
mod formats;
mod packing;
#[cfg(target_arch = "x86_64")]
mod products;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unit;
#[cfg(target_arch = "x86_64")]
mod unpacked;
#[cfg(target_arch = "x86_64")]
mod whole;
#[cfg(target_arch = "x86_64")]
mod whole_avx2;
#[cfg(target_arch = "x86_64")]
mod words;

#[cfg(target_arch = "x86_64")]
use super::PANEL;
use super::RowsFn;
#[cfg(target_arch = "x86_64")]
use crate::quant;
use crate::quant::Format;
use crate::simd::Isa;
use std::ops::Range;

/// The formats with panels.
#[cfg(target_arch = "x86_64")]
static TABLE: &[Panels] = &[
    Panels::of::<quant::Q4_0>(),
    Panels::of::<quant::Q8_0>(),
    Panels::of::<quant::Q2K>(),
    Panels::of::<quant::Q3K>(),
    Panels::of::<quant::Q4K>(),
    Panels::of::<quant::Q5K>(),
    Panels::of::<quant::Q6K>(),
    Panels::of::<quant::Iq4Nl>(),
    Panels::of::<quant::Iq4Xs>(),
    Panels::of::<quant::Mxfp4>(),
];
#[cfg(not(target_arch = "x86_64"))]
static TABLE: &[Panels] = &[];

/// Bytes of a word.
const WORD: usize = 4;

/// Whether the words of a column of blocks come before the bytes that make no whole word: where the column begins, so many
/// bytes behind its matrix, a line of the cache does, too.
fn words_come_first(offset: usize) -> bool {
    offset.is_multiple_of(64)
}

/// A format that lies in panels.
pub(super) struct Panels {
    id: u32,
    /// Whether the bytes that make no whole word are a block's first; otherwise they are its last.
    odd_first: bool,
    /// The words of a block, in the order in which they lie in a panel.
    order: &'static [Range<usize>],
    /// What computes rows of a packed matrix; a range starts at a panel, and ends at one or at the last row.
    rows: fn(Isa) -> RowsFn,
}

/// The panels of a format, where it has a kernel for them.
pub(super) fn of(format: &Format) -> Option<&'static Panels> {
    TABLE.iter().find(|panels| panels.id == format.id)
}

#[cfg(target_arch = "x86_64")]
impl Panels {
    const fn of<B: codes::PanelBlock>() -> Self {
        Self { id: B::ID, odd_first: B::ODD_FIRST, order: B::ORDER, rows: rows_of::<B> }
    }
}

#[cfg(target_arch = "x86_64")]
fn rows_of<B: codes::PanelBlock>(isa: Isa) -> RowsFn {
    match isa {
        Isa::Portable => unreachable!("its matrices lie in rows"),
        Isa::Avx2 => avx2::rows_of_panels::<B>,
        Isa::AvxVnni => avx2::rows_of_panels_with_vnni::<B>,
        Isa::Avx512Vnni => avx512::rows_of_panels::<B>,
        Isa::Amx => amx::rows_of_panels::<B>,
    }
}

impl Panels {
    /// What computes rows of a packed matrix on an instruction set that has panels.
    pub(super) fn rows(&self, isa: Isa) -> RowsFn {
        (self.rows)(isa)
    }
}
