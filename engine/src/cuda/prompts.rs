//! Starts the products of many rows, which go through tensor cores in tiles, and the sorting of slots by experts that those
//! of experts need.
//!
//! Whether a product does so depends on its shape and the card alone, and the bits are those of `launch.rs`, which starts all
//! other products and asks here first.

use super::arguments::{Argument, ChoicesAt, MatrixAt};
use super::device::Memory;
use super::kernels::{Kernels, lock};
use super::launch::arguments;
use super::rows::grow;
use super::written::{ExpertProduct, Product, What};
use crate::quant::{Format, shape_of};

/// Rows of the matrix and inputs of a tile, as in `prompts.cuh`.
const ROWS: usize = 64;
const INPUTS: usize = 64;
/// Widths of tiles that are narrower where there are few, so that all multiprocessors have some.
const WIDTHS: [usize; 3] = [INPUTS, 32, 16];
/// Inputs up to which blocks of four do as well.
const MOST_SINGLE: usize = 8;
/// Slots for each expert from which on it pays that its weights are unpacked for tiles.
const LEAST_SLOTS: usize = 2;
/// Blocks that fit on a multiprocessor.
const BLOCKS: usize = 4;
/// Experts of a block that sorts.
const EXPERTS: usize = 4;
/// Numbers that describe a tile of slots.
const TILE: usize = 3;

/// Bytes of shared memory: `PROMPTS_SHARED` in the sources.
fn shared_of(format: &Format) -> usize {
    let shape = shape_of(format).expect("formats of codes have a shape");
    let factors = 32 / shape.group * if shape.has_min { 8 } else { 4 };
    // Two stages, each with the codes of both sides, extras and factors of two groups; then a quad.
    2 * ((ROWS + INPUTS) * 64 + 2 * INPUTS * 16 + 2 * ROWS * factors) + 16
}

/// Most tiles that slots of so many experts make.
fn most_tiles(slots: usize, experts: usize) -> usize {
    slots.min(experts + slots / INPUTS)
}

/// How many tiles rows of a matrix make.
fn row_tiles(matrix: &MatrixAt) -> usize {
    matrix.rows.div_ceil(ROWS)
}

impl Kernels {
    /// Slots by experts, where a product of theirs goes in tiles: what [`Kernels::multiply_experts`] is given then. Has to be
    /// asked for anew when the choices have changed.
    pub fn sorted(&self, choices: ChoicesAt, experts: usize) -> ChoicesAt {
        let slots = choices.rows * choices.used;
        if choices.rows <= MOST_SINGLE || slots < LEAST_SLOTS * experts || !self.modules().have_tiles() {
            return choices;
        }
        let tiles = most_tiles(slots, experts);
        let numbers = [experts, 1 + TILE * tiles, slots];
        let mut memory = lock(self.slots());
        let bytes = (numbers.iter().sum::<usize>() * size_of::<i32>()).next_power_of_two();
        let Some(()) = self.ok(grow(self.device(), &mut memory, bytes)) else { return choices };
        let Some(counts) = memory.as_ref().map(Memory::address) else { return choices };
        let behind = |numbers: &[usize]| counts + (numbers.iter().sum::<usize>() * size_of::<i32>()) as u64;
        let (list, sorted) = (behind(&numbers[..1]), behind(&numbers[..2]));
        let grid = (experts.div_ceil(EXPERTS), 1);
        let what = What::other(&[choices.choices], &[counts]);
        self.step("count_slots", grid, 0, arguments![choices.choices, slots, experts, counts], what);
        let a = arguments![choices.choices, slots, experts, counts, list, sorted];
        self.step("sort_slots", grid, 0, a, What::other(&[choices.choices, counts], &[list, sorted]));
        ChoicesAt { tiles: Some((list, sorted, tiles)), ..choices }
    }

    /// Starts a product if it goes in tiles.
    pub(super) fn multiply_in_tiles(&self, product: Product, extras: u64) -> bool {
        let (matrix, rows) = (product.matrix, product.rows);
        let all = self.device().multiprocessors() as usize;
        let tiles = |width: usize| row_tiles(&matrix) * rows.div_ceil(width);
        let narrowest = WIDTHS[WIDTHS.len() - 1];
        if product.codes == 0 || rows <= MOST_SINGLE || tiles(narrowest) * 2 < all {
            return false;
        }
        let width = WIDTHS.into_iter().find(|&width| tiles(width) >= 2 * all).unwrap_or(narrowest);
        let Product { codes, bias, out, out_width, at, .. } = product;
        let places = arguments![matrix.bytes, 0u64, 0, 0u64, 0u64, 1];
        let results = arguments![codes, extras, rows, bias, out, out_width, at, width];
        self.run_tiles(&matrix, places, results, tiles(width), What::Product(product));
        true
    }

    /// The same for experts whose slots are sorted.
    pub(super) fn multiply_experts_in_tiles(&self, product: ExpertProduct, extras: u64) -> bool {
        let ExpertProduct { matrix, which, bias, choices, addresses, codes, out, .. } = product;
        let Some((list, slots, most)) = choices.tiles.filter(|_| codes != 0) else { return false };
        let sharing = if which == 2 { 1 } else { choices.used };
        let places = arguments![0u64, addresses, which, list, slots, sharing];
        let results = arguments![codes, extras, 0, bias, out, matrix.rows, 0, INPUTS];
        self.run_tiles(&matrix, places, results, row_tiles(&matrix) * most, What::ExpertProduct(product));
        true
    }

    /// Blocks take one tile after the other.
    fn run_tiles(
        &self,
        matrix: &MatrixAt,
        places: &[Argument],
        results: &[Argument],
        tiles: usize,
        what: What,
    ) {
        let blocks = tiles.min(self.device().multiprocessors() as usize * BLOCKS);
        let shape = arguments![matrix.rows, matrix.cols, matrix.is_panels, self.points(matrix.format)];
        let a = [places, shape, results, arguments![blocks]].concat();
        let products = self.modules().products(matrix.format);
        let kernel = products.prompts.as_ref().expect("codes are there, so the format has the kernel");
        self.run(kernel, (blocks, 1), shared_of(matrix.format), &a, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::FORMATS;

    #[test]
    fn four_blocks_of_most_formats_fit_on_a_multiprocessor() {
        let shared = FORMATS.iter().filter(|format| shape_of(format).is_some()).map(|f| (f, shared_of(f)));
        for (format, shared) in shared {
            // 100 KB for all, of which each takes one besides.
            let blocks = (100 << 10) / (shared + 1024);
            assert!(blocks >= 4 || (blocks == 3 && format.name == "Q2_K"), "{format}: {shared}");
        }
    }

    #[test]
    fn no_slots_make_more_tiles() {
        for (counts, tiles) in [(&[1, 1, 1][..], 3), (&[64, 65, 0], 3), (&[0, 0, 200], 4), (&[63, 1], 2)] {
            let most = most_tiles(counts.iter().sum(), counts.len());
            assert!(counts.iter().map(|count: &usize| count.div_ceil(INPUTS)).sum::<usize>() == tiles);
            assert!(tiles <= most, "{counts:?}");
        }
    }
}
