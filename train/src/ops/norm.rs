//! RMS norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016) over rows. Nothing is kept for the backward but
//! the input: the statistics are cheaper to compute again than to store.

use super::gradient::Gradient;
use super::host::{Loops, ROWS, Real, hold, is_host, vectorized, with_real};
use crate::Result;
use candle_core::{D, Tensor};
use rayon::prelude::*;

/// What is taken out of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square.
    Rms,
    /// The mean and the deviation.
    Layer,
}

/// A norm with its weights.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// What is taken out.
    pub kind: NormKind,
    /// Added to the mean square.
    pub epsilon: f64,
    /// `(width)`.
    pub weight: &'a Tensor,
    /// `(width)`.
    pub bias: Option<&'a Tensor>,
}

/// Where the gradients of the weights go.
#[derive(Clone, Copy)]
pub struct NormGradients<'a> {
    /// `(width)`.
    pub weight: &'a Gradient,
    /// `(width)`.
    pub bias: Option<&'a Gradient>,
}

/// The shift and the scale that make a row normal: `(x - mean) * scale`.
#[inline(always)]
pub(super) fn statistics<T: Real>(kind: NormKind, epsilon: f64, row: &[T]) -> (T, T) {
    let count = T::from_f64(row.len() as f64);
    let mean = match kind {
        NormKind::Rms => T::from_f64(0.0),
        NormKind::Layer => sum(row, |x| x) / count,
    };
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
    (mean, T::from_f64(1.0) / (variance + T::from_f64(epsilon)).sqrt())
}

/// The sum of `term` over a row, in sixteen lanes so that it becomes vector code; the order is fixed.
#[inline(always)]
pub(super) fn sum<T: Real>(row: &[T], term: impl Fn(T) -> T) -> T {
    let mut lanes = [T::from_f64(0.0); 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += term(x);
        }
    }
    lanes.into_iter().sum::<T>() + rest.iter().map(|&x| term(x)).sum::<T>()
}

/// The sum of `a * b` over two rows, in sixteen lanes.
#[inline(always)]
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::from_f64(0.0); 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.into_iter().sum::<T>() + a_rest.iter().zip(b_rest).map(|(&a, &b)| a * b).sum::<T>()
}

/// Gradients of one row: `row` becomes dx from dy, and the gradients of weight and bias grow.
#[inline(always)]
pub(super) fn row_backward<T: Real>(
    kind: NormKind,
    epsilon: f64,
    x: &[T],
    weight: &[T],
    dy: &mut [T],
    sums: &mut [T],
) {
    let (width, count) = (x.len(), T::from_f64(x.len() as f64));
    let (mean, scale) = statistics(kind, epsilon, x);
    let (weight_sums, bias_sums) = sums.split_at_mut(width);
    for i in 0..width {
        weight_sums[i] += dy[i] * (x[i] - mean) * scale;
    }
    for (sum, &dy) in bias_sums.iter_mut().zip(dy.iter()) {
        *sum += dy;
    }
    for (dy, &weight) in dy.iter_mut().zip(weight) {
        *dy *= weight;
    }
    let along = (dot(dy, x) - mean * sum(dy, |g| g)) * scale / count; // mean of g * normal x
    let level = if kind == NormKind::Layer { sum(dy, |g| g) / count } else { T::from_f64(0.0) };
    for (dy, &x) in dy.iter_mut().zip(x) {
        *dy = (*dy - level - (x - mean) * scale * along) * scale;
    }
}

impl Norm<'_> {
    /// The normal form of each row of `x (N, width)`, in the precision of sums.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !is_host(x) {
            return self.forward_plain(x);
        }
        let width = x.dim(D::Minus1)?;
        with_real!(x, T => {
            let (rows, weight) = (hold::<T>(x)?, hold::<T>(self.weight)?);
            let bias = self.bias.map(hold::<T>).transpose()?;
            let (rows, weight, bias): (&[T], &[T], _) = (&rows, &weight, bias.as_deref());
            let mut out = vec![0.0; rows.len()];
            out.par_chunks_mut(ROWS * width).zip(rows.par_chunks(ROWS * width)).for_each(|(out, rows)| {
                vectorized(Forward { norm: self, rows, weight, bias, out });
            });
            Ok(Tensor::from_vec(out, x.shape(), x.device())?)
        })
    }

    pub(super) fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let (normal, _) = self.normal(x)?;
        let y = normal.broadcast_mul(self.weight)?;
        Ok(self.bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?)
    }

    /// The normal rows without weights, and the scale of each.
    fn normal(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let centred = match self.kind {
            NormKind::Rms => x.clone(),
            NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        };
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?.recip()?;
        Ok((centred.broadcast_mul(&scale)?, scale))
    }

    /// The gradient of `x` given that of the output, `dy (N, width)`; `residual` is added to it. The gradients of the
    /// weights are added to `gradients`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        residual: Option<&Tensor>,
        gradients: NormGradients,
    ) -> Result<Tensor> {
        if !is_host(x) {
            return self.backward_plain(x, dy, residual, gradients);
        }
        let width = x.dim(D::Minus1)?;
        with_real!(x, T => {
            let (rows, weight, dy) = (hold::<T>(x)?, hold::<T>(self.weight)?, hold::<T>(dy)?);
            let residual = residual.map(hold::<T>).transpose()?;
            let (rows, weight, residual): (&[T], &[T], _) = (&rows, &weight, residual.as_deref());
            let mut out = dy.to_vec();
            let sums = if self.bias.is_some() { 2 * width } else { width };
            let task = |(chunk, out): (usize, &mut [T])| {
                let first = chunk * ROWS * width;
                let own = |all: &'_ [T]| first..(first + out.len()).min(all.len());
                let (x, residual) = (&rows[own(rows)], residual.map(|all| &all[own(all)]));
                let mut sums = vec![0.0; sums];
                vectorized(Backward { norm: self, rows: x, weight, residual, out, sums: &mut sums });
                sums
            };
            let sums: Vec<Vec<T>> = out.par_chunks_mut(ROWS * width).enumerate().map(task).collect();
            gradients.weight.add_sums(&sums)?;
            if let Some(bias) = gradients.bias {
                bias.add_sums(&sums.iter().map(|sums| sums[width..].to_vec()).collect::<Vec<_>>())?;
            }
            Ok(Tensor::from_vec(out, x.shape(), x.device())?)
        })
    }

    pub(super) fn backward_plain(
        &self,
        x: &Tensor,
        dy: &Tensor,
        residual: Option<&Tensor>,
        gradients: NormGradients,
    ) -> Result<Tensor> {
        let (normal, scale) = self.normal(x)?;
        gradients.weight.add(&(dy * &normal)?.sum(0)?)?;
        if let Some(bias) = gradients.bias {
            bias.add(&dy.sum(0)?)?;
        }
        let scaled = dy.broadcast_mul(self.weight)?;
        let along = (&scaled * &normal)?.mean_keepdim(D::Minus1)?;
        let mut dx = (&scaled - normal.broadcast_mul(&along)?)?;
        if self.kind == NormKind::Layer {
            dx = dx.broadcast_sub(&scaled.mean_keepdim(D::Minus1)?)?;
        }
        let dx = dx.broadcast_mul(&scale)?;
        Ok(residual.map_or(Ok(dx.clone()), |residual| dx + residual)?)
    }
}

/// The norm of some rows.
struct Forward<'a, T> {
    norm: &'a Norm<'a>,
    rows: &'a [T],
    weight: &'a [T],
    bias: Option<&'a [T]>,
    out: &'a mut [T],
}

impl<T: Real> Loops for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.weight.len();
        for (x, y) in self.rows.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (mean, scale) = statistics(self.norm.kind, self.norm.epsilon, x);
            for ((y, &x), &weight) in y.iter_mut().zip(x).zip(self.weight) {
                *y = (x - mean) * scale * weight;
            }
            for (y, &bias) in y.iter_mut().zip(self.bias.unwrap_or_default()) {
                *y += bias;
            }
        }
    }
}

/// The gradient of some rows.
struct Backward<'a, T> {
    norm: &'a Norm<'a>,
    rows: &'a [T],
    weight: &'a [T],
    residual: Option<&'a [T]>,
    out: &'a mut [T],  // dy, becomes dx
    sums: &'a mut [T], // gradients of the weight and, where there is one, the bias
}

impl<T: Real> Loops for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.weight.len();
        for (x, dy) in self.rows.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            row_backward(self.norm.kind, self.norm.epsilon, x, self.weight, dy, self.sums);
        }
        for (out, &residual) in self.out.iter_mut().zip(self.residual.unwrap_or_default()) {
            *out += residual;
        }
    }
}
