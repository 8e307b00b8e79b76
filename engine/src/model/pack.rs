//! Brings dense matrices into the layout of the kernels: once, at load, into memory of the program's own.
//!
//! Every token passes all of them, so nothing is gained by waiting; formats that lie as in the file stay in the mapping.
//! Experts are packed on their way into slots, by the expert store.

use super::Model;
use super::matrix::Matrix;
use crate::error::Result;
use crate::gguf::{Bytes, Source};
use crate::kernels::Layout;
use crate::os::pages::Pages;
use crate::simd::Isa;
use rayon::prelude::*;
use std::sync::Arc;

/// Bytes that one task packs.
const PIECE: usize = 2 << 20;

/// Matrices begin at multiples of this: a line of the processor's cache.
const ALIGNMENT: usize = 64;

impl Model {
    /// Packs the matrices that every token passes. Their pages of the mapping leave this process's memory.
    ///
    /// # Errors
    /// When the system has no room for them.
    pub(crate) fn pack(&self, isa: Isa) -> Result<()> {
        let layout = |matrix: &Matrix| Layout::of(isa, matrix.format);
        let matrices: Vec<_> = self.weights.dense().filter(|matrix| layout(matrix) != Layout::Rows).collect();
        let lengths = matrices.iter().map(|matrix| room(matrix));
        let mut pages = Pages::new(lengths.sum())?;
        let mut pieces = vec![];
        let mut rest = &mut pages[..];
        for matrix in &matrices {
            let (own, others) = rest.split_at_mut(room(matrix));
            rest = others;
            cut(matrix, &mut own[..matrix.bytes.len()], &mut pieces);
        }
        pieces.into_par_iter().for_each(|(matrix, start, out)| {
            let rows = start..start + out.len() / matrix.view().row_bytes();
            layout(matrix).pack(matrix.view().slice_rows(rows), out);
            let first = start * matrix.view().row_bytes();
            matrix.bytes.slice(first..first + out.len()).advise_done();
        });
        let (packed, mut start) = (Bytes::new(Source::Pages(Arc::new(pages))), 0);
        for matrix in &matrices {
            matrix.packed.get_or_init(|| (layout(matrix), packed.slice(start..start + matrix.bytes.len())));
            start += room(matrix);
        }
        Ok(())
    }
}

/// Bytes that a packed matrix takes.
fn room(matrix: &Matrix) -> usize {
    matrix.bytes.len().next_multiple_of(ALIGNMENT)
}

/// Cuts a matrix and its destination into tasks: matrix, first row, destination.
fn cut<'a>(matrix: &'a Matrix, out: &'a mut [u8], pieces: &mut Vec<(&'a Matrix, usize, &'a mut [u8])>) {
    let row_bytes = matrix.view().row_bytes();
    let rows = (PIECE / row_bytes).max(1).next_multiple_of(Layout::ROWS_TOGETHER);
    for (number, out) in out.chunks_mut(rows * row_bytes).enumerate() {
        pieces.push((matrix, number * rows, out));
    }
}
