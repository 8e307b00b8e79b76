//! Panels: the blocks of sixteen rows side by side, word by word, so that a register holds four weights of each row.
//!
//! A panel has the bytes of its rows, in another order. Every column of blocks has 32-bit words, the same one of every row,
//! and in the order in which a pass needs them: memory that is read along one line comes without being asked for. The
//! blocks' bytes that make no whole word (an F16 scale at either end) come before them or behind them, row by row, so
//! that words lie on lines of the cache. Codes stay packed in their bits. This file owns the table of formats.
//!
//! The others stand on each other: `packing.rs` makes panels of rows; `words*.rs` are registers of words; `codes.rs` and
//! `formats.rs` say where codes and factors are, `steps.rs` and `dots*.rs` bring them to products; `tiles.rs` lays inputs
//! side by side; `products.rs`, `unpacked.rs` (columns out of their bits) and `whole*.rs` (Q2_K) pass inputs over panels;
//! `avx2.rs`, `avx512.rs` and `neon.rs` compile that. `bf16.rs` makes tiles of BF16, which `amx.rs` multiplies by the tile
//! unit (`unit.rs`).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod codes;
mod dots;
#[cfg(target_arch = "aarch64")]
mod dots_neon;
#[cfg(target_arch = "x86_64")]
mod dots_x86;
mod formats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packing;
mod products;
mod steps;
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

use super::job::RowsFn;
use super::matrix::MatrixRef;
use crate::quant::{self, Format};
use crate::simd::Isa;
use packing::Packing;

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

/// A format that lies in panels.
pub(super) struct Panels {
    id: u32,
    packing: Packing,
    /// What computes rows of a packed matrix; a range starts at a panel, and ends at one or at the last row.
    rows: fn(Isa) -> RowsFn,
}

/// The panels of a format, where it has a kernel for them.
pub(super) fn of(format: &Format) -> Option<&'static Panels> {
    TABLE.iter().find(|panels| panels.id == format.id)
}

impl Panels {
    const fn of<B: codes::PanelBlock>() -> Self {
        let packing = Packing { odd_first: B::ODD_FIRST, order: B::ORDER };
        Self { id: B::ID, packing, rows: rows_of::<B> }
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
    /// Packs whole panels of rows; those behind the last one stay rows.
    pub(super) fn pack(&self, rows: MatrixRef<'_>, out: &mut [u8]) {
        self.packing.pack(rows, out);
    }

    /// What computes rows of a packed matrix on an instruction set that has panels.
    pub(super) fn rows(&self, isa: Isa) -> RowsFn {
        (self.rows)(isa)
    }
}
