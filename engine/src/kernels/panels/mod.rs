//! Panels: the blocks of sixteen rows side by side, word by word, so that a register holds four weights of each row.
//!
//! A panel has the bytes of its rows, in another order. Every column of blocks has 32-bit words, the same one of every row,
//! and in the order in which a pass needs them: memory that is read along one line comes without being asked for. The
//! blocks' bytes that make no whole word (an F16 scale at either end) come before them or behind them, row by row, so
//! that words lie on lines of the cache. Codes stay packed in their bits. This file owns the table of formats;
//! `packing.rs` makes panels of rows, `formats.rs` and `codes.rs` read blocks out of a panel, `tiles.rs` lays inputs side
//! by side, `products.rs` multiplies both over `words.rs`, compiled in `avx2.rs`, `avx512.rs` and `neon.rs`; the first and
//! the last have `unpacked.rs` for many inputs. Q2_K has products of its own (`whole.rs`, `whole_avx2.rs`). `bf16.rs`
//! makes tiles of BF16 of both, which `amx.rs` multiplies by the tile unit (`unit.rs`).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod codes;
mod formats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packing;
mod products;
#[cfg(test)]
mod tests;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unit;
mod unpacked;
mod whole;
#[cfg(target_arch = "x86_64")]
mod whole_avx2;
mod words;
#[cfg(target_arch = "aarch64")]
mod words_neon;
#[cfg(target_arch = "x86_64")]
mod words_x86;

use super::{PANEL, RowsFn};
use crate::quant::{self, Format};
use crate::simd::Isa;
use std::ops::Range;

/// The formats with panels.
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

impl Panels {
    const fn of<B: codes::PanelBlock>() -> Self {
        Self { id: B::ID, odd_first: B::ODD_FIRST, order: B::ORDER, rows: rows_of::<B> }
    }
}

fn rows_of<B: codes::PanelBlock>(isa: Isa) -> RowsFn {
    match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => neon::rows_of_panels::<B>,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => neon::rows_of_panels_with_i8mm::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::rows_of_panels::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::rows_of_panels_with_vnni::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::rows_of_panels::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::rows_of_panels::<B>,
        // Sets are chosen where they are available.
        _ => unreachable!("the matrices of {isa} lie in rows"),
    }
}

impl Panels {
    /// What computes rows of a packed matrix on an instruction set that has panels.
    pub(super) fn rows(&self, isa: Isa) -> RowsFn {
        (self.rows)(isa)
    }
}
