//! The gradient of one parameter, summed over the micro-batches of a step; one that is not trained has none.

use super::gemm::{Matrix, Target, Threads, multiply};
use super::host::{hold, is_host, modify, with_real};
use crate::Result;
use candle_core::{DType, Device, Shape, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A sum of gradients, in the precision of the parameter itself; or nothing, for a parameter that is not trained. What is
/// added then is not even computed.
pub struct Gradient {
    total: Option<Mutex<Tensor>>,
}

impl Gradient {
    /// Zero, in the shape of the parameter.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn zeros(shape: &Shape, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { total: Some(Mutex::new(Tensor::zeros(shape, dtype, device)?)) })
    }

    /// Of a parameter that is not trained.
    pub fn frozen() -> Self {
        Self { total: None }
    }

    /// Whether there is none.
    pub fn is_frozen(&self) -> bool {
        self.total.is_none()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Tensor>> {
        Some(self.total.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The sum so far, where the parameter is trained.
    pub fn total(&self) -> Option<Tensor> {
        Some(self.lock()?.clone())
    }

    /// Starts again at zero.
    ///
    /// # Errors
    /// The device refuses.
    pub fn clear(&self) -> Result<()> {
        let Some(mut total) = self.lock() else { return Ok(()) };
        if is_host(&total) {
            return with_real!(total, T => modify::<T>(&total, |sum| sum.fill(0.0)));
        }
        *total = total.zeros_like()?;
        Ok(())
    }

    /// Replaces the sum, by one over several ranks for instance.
    pub fn replace(&self, total: Tensor) {
        if let Some(mut own) = self.lock() {
            *own = total;
        }
    }

    /// Adds `gradient`, of the parameter's shape and any precision.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn add(&self, gradient: &Tensor) -> Result<()> {
        let Some(mut total) = self.lock() else { return Ok(()) };
        *total = (&*total + gradient.reshape(total.shape())?.to_dtype(total.dtype())?)?;
        Ok(())
    }

    /// Adds partial sums, one after the other.
    pub(super) fn add_sums<T: super::host::Real>(&self, parts: &[Vec<T>]) -> Result<()> {
        self.modify::<T>(|total| {
            for part in parts {
                total.iter_mut().zip(part).for_each(|(total, &sum)| *total += sum);
            }
        })
    }

    /// Changes the sum in place where the CPU's fast forms can.
    pub(super) fn modify<T: super::host::Real>(&self, function: impl FnOnce(&mut [T])) -> Result<()> {
        self.lock().map_or(Ok(()), |total| modify::<T>(&total, function))
    }

    /// Adds `a^T * b`: the gradient of a weight `(out, in)` from `a (N, out)` and `b (N, in)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn add_product(&self, a: &Tensor, b: &Tensor) -> Result<()> {
        if self.is_frozen() {
            return Ok(());
        }
        if !is_host(a) {
            return self.add(&a.t()?.matmul(b)?);
        }
        let ((rows, outputs), inputs) = (a.dims2()?, b.dim(1)?);
        with_real!(a, T => {
            let (a, b) = (hold::<T>(a)?, hold::<T>(b)?);
            let left = Matrix::new(&a, rows, outputs, outputs).transposed();
            let right = Matrix::new(&b, rows, inputs, inputs);
            self.modify::<T>(|sum| {
                multiply(Target { data: sum, row_stride: inputs, keep: true }, 1.0, left, right, Threads::All);
            })
        })
    }

    /// Adds row n of `rows (N, width)` to row `ids[n]` of the sum: the gradient of a table of embeddings.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn add_rows(&self, ids: &[u32], rows: &Tensor) -> Result<()> {
        if !is_host(rows) {
            let index = Tensor::new(ids, rows.device())?;
            let Some(mut total) = self.lock() else { return Ok(()) };
            *total = total.index_add(&index, &rows.to_dtype(total.dtype())?, 0)?;
            return Ok(());
        }
        let width = rows.dim(1)?;
        with_real!(rows, T => {
            let rows = hold::<T>(rows)?;
            self.modify::<T>(|sum| {
                for (&id, row) in ids.iter().zip(rows.chunks_exact(width)) {
                    sum[id as usize * width..][..width].iter_mut().zip(row).for_each(|(s, &x)| *s += x);
                }
            })
        })
    }

    /// Adds the sum of the rows of `rows (N, width)`: the gradient of a bias.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn add_row_sum(&self, rows: &Tensor) -> Result<()> {
        if self.is_frozen() { Ok(()) } else { self.add(&super::wide(rows)?.sum(0)?) }
    }
}
