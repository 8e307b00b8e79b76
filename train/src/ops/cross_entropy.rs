//! The output head and its loss in one: logits exist for a chunk of rows at a time, forward and backward together.

use super::host::{Loops, Real, is_host, vectorized, wide, with_real};
use super::linear::Linear;
use super::norm::sum;
use crate::Result;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

/// A target that counts neither in the loss nor in the gradient.
pub const IGNORED: u32 = u32::MAX;

/// Logits held at a time: 8 MB in f32, about what the caches hold.
const LOGITS: usize = 1 << 21;

/// The loss of rows against the tokens that should follow them.
pub struct CrossEntropy<'a> {
    /// `(V, width)`, with what is learned beside it.
    pub head: &'a Linear<'a>,
    /// The next token of each row, or [`IGNORED`].
    pub targets: &'a [u32],
}

impl CrossEntropy<'_> {
    /// Sum of the losses in nats over the rows of `x (N, width)` that have a target.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<f64> {
        let mut total = 0.0;
        for (first, count) in self.chunks()? {
            let mut logits = self.head.forward(&x.narrow(0, first, count)?)?;
            total += self.slopes(&mut logits, &self.targets[first..first + count], 0.0)?;
        }
        Ok(total)
    }

    /// The same sum, and the gradient of `x` for `scale` times the sum; those of the head are added to theirs.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_backward(&self, x: &Tensor, scale: f64) -> Result<(f64, Tensor)> {
        let (mut total, mut parts) = (0.0, vec![]);
        for (first, count) in self.chunks()? {
            let rows = x.narrow(0, first, count)?;
            let mut logits = self.head.forward(&rows)?;
            total += self.slopes(&mut logits, &self.targets[first..first + count], scale)?;
            parts.push(self.head.backward(&logits, &rows)?);
        }
        Ok((total, Tensor::cat(&parts, 0)?))
    }

    fn chunks(&self) -> Result<Vec<(usize, usize)>> {
        let rows = (LOGITS / self.head.weight.values.dim(0)?).max(16);
        let count = self.targets.len();
        Ok((0..count).step_by(rows).map(|first| (first, rows.min(count - first))).collect())
    }

    /// Sum of the losses; `logits (rows, V)` become their gradient for `scale` times the sum.
    fn slopes(&self, logits: &mut Tensor, targets: &[u32], scale: f64) -> Result<f64> {
        if !is_host(logits) {
            let (total, slopes) = slopes_plain(logits, targets, scale)?;
            *logits = slopes;
            return Ok(total);
        }
        let vocabulary = logits.dim(1)?;
        with_real!(logits, T => {
            let mut losses = vec![0f64; targets.len()];
            super::modify::<T>(logits, |logits| {
                let rows = logits.par_chunks_mut(vocabulary).zip(targets).zip(&mut losses);
                rows.for_each(|((row, &target), loss)| {
                    *loss = vectorized(Slopes { row, target, scale: T::from_f64(scale) }).to_f64();
                });
            })?;
            Ok(losses.iter().sum())
        })
    }
}

/// The loss of one row, whose logits become gradients.
struct Slopes<'a, T> {
    row: &'a mut [T],
    target: u32,
    scale: T,
}

impl<T: Real> Loops for Slopes<'_, T> {
    type Output = T;

    #[inline(always)]
    fn call(self) -> T {
        let Self { row, target, scale } = self;
        if target == IGNORED {
            row.fill(T::from_f64(0.0));
            return T::from_f64(0.0);
        }
        let largest = super::host::largest(row);
        let wanted = row[target as usize] - largest;
        row.iter_mut().for_each(|x| *x = (*x - largest).exp());
        let total = sum(row, |x| x);
        let share = scale / total;
        row.iter_mut().for_each(|x| *x *= share);
        row[target as usize] -= scale;
        total.ln() - wanted
    }
}

pub(super) fn slopes_plain(logits: &Tensor, targets: &[u32], scale: f64) -> Result<(f64, Tensor)> {
    let dtype = logits.dtype();
    let logits = wide(logits)?;
    let device = logits.device();
    let counts: Vec<f32> = targets.iter().map(|&t| if t == IGNORED { 0.0 } else { 1.0 }).collect();
    let counts = Tensor::new(counts, device)?.to_dtype(logits.dtype())?.unsqueeze(1)?;
    let ids: Vec<u32> = targets.iter().map(|&t| if t == IGNORED { 0 } else { t }).collect();
    let ids = Tensor::new(ids, device)?.unsqueeze(1)?;
    let logits = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let powers = logits.exp()?;
    let totals = powers.sum_keepdim(D::Minus1)?;
    let losses = ((totals.log()? - logits.gather(&ids, 1)?)? * &counts)?;
    let columns = Tensor::arange(0u32, logits.dim(1)? as u32, device)?.unsqueeze(0)?;
    let wanted = columns.broadcast_eq(&ids)?.to_dtype(logits.dtype())?;
    let slopes = ((powers.broadcast_div(&totals)? - wanted)?.broadcast_mul(&counts)? * scale)?;
    Ok((losses.sum_all()?.to_dtype(DType::F64)?.to_scalar()?, slopes.to_dtype(dtype)?))
}
