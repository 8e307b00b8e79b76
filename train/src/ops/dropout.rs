//! Dropout (Srivastava et al. 2014). The mask is a function of the place, so the backward computes it again.

use super::host::{Real, hold, is_host, with_real};
use crate::Result;
use crate::random::Random;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

/// Sets a share of the numbers to zero and scales the others, so that the expected value stays.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The share that is dropped, below 1.
    pub rate: f64,
    /// Where the random numbers of this call begin.
    pub seed: u64,
}

impl Dropout {
    /// The surviving numbers of `x`, or of a gradient: the function is its own backward.
    ///
    /// # Errors
    /// The device refuses.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.rate == 0.0 {
            return Ok(x.clone());
        }
        let width = x.dim(D::Minus1)?;
        if is_host(x) {
            return with_real!(x, T => {
                let mut out = hold::<T>(&x.contiguous()?)?.to_vec();
                out.par_chunks_mut(width).enumerate().for_each(|(row, values)| self.row(row, values));
                Ok(Tensor::from_vec(out, x.shape(), x.device())?)
            });
        }
        // The mask is made on the host: a device's own generator has a state that a resumed run would not share.
        let mut mask = vec![1f32; x.elem_count()];
        mask.par_chunks_mut(width).enumerate().for_each(|(row, values)| self.row(row, values));
        let mask = Tensor::from_vec(mask, x.shape(), x.device())?;
        let wide = (x.to_dtype(DType::F32)? * mask)?;
        Ok(wide.to_dtype(x.dtype())?)
    }

    /// Drops from one row of the whole, the `row`-th.
    pub(super) fn row<T: Real>(&self, row: usize, values: &mut [T]) {
        self.row_from(row, 0, values);
    }

    /// Drops from one row the numbers that begin at `column`.
    pub(super) fn row_from<T: Real>(&self, row: usize, column: usize, values: &mut [T]) {
        let keep = T::from_f64(1.0 / (1.0 - self.rate));
        let mut random = Random::at(self.seed, &[row as u64]);
        random.skip(column as u64);
        for value in values {
            *value *= if random.uniform() < self.rate { T::from_f64(0.0) } else { keep };
        }
    }
}
