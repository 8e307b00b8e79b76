//! Matrix products of slices into existing memory, through the `gemm` crate. The only unsafe code of the trainer.

#![allow(unsafe_code)]

use super::host::Real;
use gemm::Parallelism;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A matrix of `rows` rows that begin `row_stride` numbers apart.
    pub(super) fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

/// Whether a product may use all threads or is itself a part of parallel work.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Threads {
    One,
    All,
}

/// Where a product goes.
pub(super) struct Target<'a, T> {
    pub(super) data: &'a mut [T], // rows that begin `row_stride` numbers apart
    pub(super) row_stride: usize,
    pub(super) keep: bool, // whether the product is added to what is there
}

/// `target = factor * a * b`, or `target += factor * a * b` where it keeps what is there.
///
/// # Panics
/// The inner lengths differ, or a matrix does not fit in its slice.
pub(super) fn multiply<T: Real>(target: Target<T>, factor: T, a: Matrix<T>, b: Matrix<T>, threads: Threads) {
    assert_eq!(a.columns, b.rows, "inner lengths");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    let fits = |length: usize, rows: usize, columns: usize, row: usize, column: usize| {
        rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < length
    };
    assert!(fits(a.data.len(), a.rows, a.columns, a.row_stride, a.column_stride), "left matrix");
    assert!(fits(b.data.len(), b.rows, b.columns, b.row_stride, b.column_stride), "right matrix");
    assert!(fits(target.data.len(), a.rows, b.columns, target.row_stride, 1), "target matrix");
    assert!(b.columns <= target.row_stride || a.rows == 1, "rows of the target overlap");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: every index that the strides and counts allow lies inside the slices, as asserted above; the target is
    // borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            target.data.as_mut_ptr(),
            1,
            target.row_stride as isize,
            target.keep,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::from_f64(1.0),
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
