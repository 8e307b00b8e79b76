//! Which rows go to which expert: rows are copied into slots that lie side by side per expert, and summed back.
//!
//! The two directions are each other's backward.

use super::host::{Loops, Real, hold, is_host, vectorized, wide, with_real};
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// A list of slots, each with the row that it holds; a row may have several slots or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispatch {
    rows: Vec<u32>,     // (slots), the row in each slot
    starts: Vec<usize>, // (N + 1), where a row's slots begin in `slots`
    slots: Vec<u32>,    // (slots), ordered by row
}

impl Dispatch {
    /// Slots that hold `rows`, each below `count`.
    pub fn new(rows: Vec<u32>, count: usize) -> Self {
        let mut starts = vec![0; count + 1];
        rows.iter().for_each(|&row| starts[row as usize + 1] += 1);
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut slots = vec![0; rows.len()];
        for (slot, &row) in rows.iter().enumerate() {
            slots[next[row as usize]] = slot as u32;
            next[row as usize] += 1;
        }
        Self { rows, starts, slots }
    }

    /// The row in each slot.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Copies of the rows of `x (N, width)`: `(slots, width)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn gather(&self, x: &Tensor) -> Result<Tensor> {
        if !is_host(x) || self.rows.is_empty() {
            return self.gather_plain(x);
        }
        let width = x.dim(1)?;
        with_real!(x, T => {
            let held = hold::<T>(x)?;
            let from: &[T] = &held;
            let mut out = vec![0.0; self.rows.len() * width];
            out.par_chunks_mut(width).zip(&self.rows).for_each(|(out, &row)| {
                out.copy_from_slice(&from[row as usize * width..][..width]);
            });
            Ok(Tensor::from_vec(out, (self.rows.len(), width), x.device())?)
        })
    }

    pub(super) fn gather_plain(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.index_select(&Tensor::new(&self.rows[..], x.device())?, 0)?)
    }

    /// Each row's sum over its slots `y (slots, width)`, in the precision of sums: `(N, width)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn combine(&self, y: &Tensor) -> Result<Tensor> {
        if !is_host(y) {
            return self.combine_plain(y);
        }
        let (count, width) = (self.starts.len() - 1, y.dim(1)?);
        with_real!(y, T => {
            let held = hold::<T>(y)?;
            let from: &[T] = &held;
            let mut out = vec![0.0; count * width];
            out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
                let slots = &self.slots[self.starts[row]..self.starts[row + 1]];
                vectorized(Sum { from, slots, out });
            });
            Ok(Tensor::from_vec(out, (count, width), y.device())?)
        })
    }

    pub(super) fn combine_plain(&self, y: &Tensor) -> Result<Tensor> {
        let y = wide(y)?;
        let zeros = Tensor::zeros((self.starts.len() - 1, y.dim(1)?), y.dtype(), y.device())?;
        Ok(zeros.index_add(&Tensor::new(&self.rows[..], y.device())?, &y, 0)?)
    }
}

/// Adds the rows `slots` of `from` to `out`.
struct Sum<'a, T> {
    from: &'a [T],
    slots: &'a [u32],
    out: &'a mut [T],
}

impl<T: Real> Loops for Sum<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.out.len();
        for &slot in self.slots {
            let row = &self.from[slot as usize * width..][..width];
            self.out.iter_mut().zip(row).for_each(|(sum, &y)| *sum += y);
        }
    }
}
