//! What stands between the matrices of a feed-forward network, with the router's weights folded in.
//!
//! A routed row is multiplied by its weight here, before the second matrix: the gradient of the weight is then a
//! product of two short rows, and the outputs of experts need not be kept.

use super::host::{Loops, ROWS, Real, hold, is_host, vectorized, wide, with_real};
use crate::Result;
use candle_core::{D, Tensor};
use rayon::prelude::*;

/// The function between the matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)` in its exact form (Hendrycks and Gimpel 2016).
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `silu(gate) * up` (Shazeer 2020); the gates are the first half of a row.
    Swiglu,
}

const FRAC_1_SQRT_TAU: f64 = 0.398_942_280_401_432_7; // 1 / sqrt(2 pi)

impl Activation {
    /// Columns in per column out: 2 where there is a gate.
    pub fn branches(self) -> usize {
        if self == Self::Swiglu { 2 } else { 1 }
    }

    /// `(N, branches * F)` to `(N, F)`; row n is multiplied by `weights[n]` where there are any.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(self, x: &Tensor, weights: Option<&[f64]>) -> Result<Tensor> {
        if !is_host(x) {
            return self.forward_plain(x, weights);
        }
        let (rows, columns) = x.dims2()?;
        let width = columns / self.branches();
        with_real!(x, T => {
            let held = hold::<T>(x)?;
            let x_all: &[T] = &held;
            let mut out = vec![0.0; rows * width];
            let tasks = out.par_chunks_mut(ROWS * width).zip(x_all.par_chunks(ROWS * columns)).enumerate();
            tasks.for_each(|(task, (out, x))| {
                let weights = weights.map(|weights| &weights[task * ROWS..]);
                vectorized(Forward { activation: self, x, columns, weights, out });
            });
            Ok(Tensor::from_vec(out, (rows, width), x.device())?)
        })
    }

    #[inline(always)]
    fn row_forward<T: Real>(self, x: &[T], weight: T, out: &mut [T]) {
        match self {
            Self::Gelu => out.iter_mut().zip(x).for_each(|(out, &x)| *out = x * phi(x) * weight),
            Self::Relu => {
                out.iter_mut().zip(x).for_each(|(out, &x)| *out = x.larger(T::from_f64(0.0)) * weight)
            }
            Self::Swiglu => {
                let (gate, up) = x.split_at(out.len());
                for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate * sigmoid(gate) * up * weight;
                }
            }
        }
    }

    /// Gradients of `x` and of the weights, given that of the output.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn backward(self, x: &Tensor, dy: &Tensor, weights: Option<&[f64]>) -> Result<(Tensor, Vec<f64>)> {
        if !is_host(x) {
            return self.backward_plain(x, dy, weights);
        }
        let (rows, columns) = x.dims2()?;
        let width = columns / self.branches();
        with_real!(x, T => {
            let (x_held, dy_held) = (hold::<T>(x)?, hold::<T>(dy)?);
            let (x_all, dy_all): (&[T], &[T]) = (&x_held, &dy_held);
            let mut out = vec![0.0; x_all.len()];
            let mut slopes = vec![0f64; rows];
            let tasks = out.par_chunks_mut(ROWS * columns).zip(slopes.par_chunks_mut(ROWS)).enumerate();
            tasks.for_each(|(task, (out, slopes))| {
                let first = task * ROWS;
                let weights = weights.map(|weights| &weights[first..]);
                let (x, dy) = (&x_all[first * columns..], &dy_all[first * width..]);
                vectorized(Backward { activation: self, x, columns, weights, dy, out, slopes });
            });
            Ok((Tensor::from_vec(out, x.shape(), x.device())?, slopes))
        })
    }

    /// Writes the gradient of a row and returns that of its weight.
    #[inline(always)]
    fn row_backward<T: Real>(self, x: &[T], dy: &[T], weight: T, dx: &mut [T]) -> T {
        let mut slopes = [T::from_f64(0.0); 16];
        let one = T::from_f64(1.0);
        match self {
            Self::Gelu => {
                for i in 0..dy.len() {
                    let phi = phi(x[i]);
                    let density = T::from_f64(FRAC_1_SQRT_TAU) * (-x[i] * x[i] * T::from_f64(0.5)).exp();
                    slopes[i % 16] += dy[i] * x[i] * phi;
                    dx[i] = dy[i] * (phi + x[i] * density) * weight;
                }
            }
            Self::Relu => {
                for i in 0..dy.len() {
                    let passes = if x[i] > T::from_f64(0.0) { one } else { T::from_f64(0.0) };
                    slopes[i % 16] += dy[i] * x[i] * passes;
                    dx[i] = dy[i] * passes * weight;
                }
            }
            Self::Swiglu => {
                let width = dy.len();
                let (gate, up) = x.split_at(width);
                let (d_gate, d_up) = dx.split_at_mut(width);
                for i in 0..width {
                    let share = sigmoid(gate[i]);
                    let silu = gate[i] * share;
                    slopes[i % 16] += dy[i] * silu * up[i];
                    let dy = dy[i] * weight;
                    d_up[i] = dy * silu;
                    d_gate[i] = dy * up[i] * (share + silu * (one - share));
                }
            }
        }
        slopes.into_iter().sum()
    }

    pub(super) fn forward_plain(self, x: &Tensor, weights: Option<&[f64]>) -> Result<Tensor> {
        let (activated, _) = self.value_and_slopes(&wide(x)?)?;
        Ok(by_row(&activated, weights)?.to_dtype(x.dtype())?)
    }

    pub(super) fn backward_plain(
        self,
        x: &Tensor,
        dy: &Tensor,
        weights: Option<&[f64]>,
    ) -> Result<(Tensor, Vec<f64>)> {
        let (activated, slopes) = self.value_and_slopes(&wide(x)?)?;
        let dy = wide(dy)?;
        let of_weights = (&activated * &dy)?.sum(D::Minus1)?.to_dtype(candle_core::DType::F64)?.to_vec1()?;
        let dy = by_row(&dy, weights)?;
        let parts: Vec<Tensor> = slopes.iter().map(|slope| slope * &dy).collect::<Result<_, _>>()?;
        Ok((Tensor::cat(&parts, 1)?.to_dtype(x.dtype())?, of_weights))
    }

    /// The activation, and its slope along each branch.
    fn value_and_slopes(self, x: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        Ok(match self {
            Self::Gelu => {
                let phi = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
                let density = ((x.sqr()? * -0.5)?.exp()? * FRAC_1_SQRT_TAU)?;
                ((x * &phi)?, vec![(phi + (x * density)?)?])
            }
            Self::Relu => (x.relu()?, vec![x.gt(0.0)?.to_dtype(x.dtype())?]),
            Self::Swiglu => {
                let width = x.dim(1)? / 2;
                let (gate, up) = (x.narrow(1, 0, width)?, x.narrow(1, width, width)?);
                let share = ((gate.neg()?.exp()? + 1.0)?).recip()?;
                let silu = (&gate * &share)?;
                let slope = (&share + (&silu * share.affine(-1.0, 1.0)?)?)?;
                ((&silu * &up)?, vec![(up * slope)?, silu])
            }
        })
    }
}

/// Some rows.
struct Forward<'a, T> {
    activation: Activation,
    x: &'a [T],
    columns: usize, // of x
    weights: Option<&'a [f64]>,
    out: &'a mut [T],
}

impl<T: Real> Loops for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.columns / self.activation.branches();
        let rows = self.out.chunks_exact_mut(width).zip(self.x.chunks_exact(self.columns));
        for (i, (out, x)) in rows.enumerate() {
            let weight = self.weights.map_or(1.0, |weights| weights[i]);
            self.activation.row_forward(x, T::from_f64(weight), out);
        }
    }
}

/// Gradients of some rows and of their weights.
struct Backward<'a, T> {
    activation: Activation,
    x: &'a [T],
    columns: usize, // of x
    weights: Option<&'a [f64]>,
    dy: &'a [T],
    out: &'a mut [T],      // dx
    slopes: &'a mut [f64], // of the weights
}

impl<T: Real> Loops for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (columns, width) = (self.columns, self.columns / self.activation.branches());
        for (i, (dx, slope)) in self.out.chunks_exact_mut(columns).zip(self.slopes).enumerate() {
            let weight = self.weights.map_or(1.0, |weights| weights[i]);
            let (x, dy) = (&self.x[i * columns..][..columns], &self.dy[i * width..][..width]);
            *slope = self.activation.row_backward(x, dy, T::from_f64(weight), dx).to_f64();
        }
    }
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::from_f64(1.0) / (T::from_f64(1.0) + (-x).exp())
}

/// The normal distribution's cumulative function.
#[inline(always)]
fn phi<T: Real>(x: T) -> T {
    T::from_f64(0.5) * (T::from_f64(1.0) + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

fn by_row(x: &Tensor, weights: Option<&[f64]>) -> Result<Tensor> {
    let Some(weights) = weights else { return Ok(x.clone()) };
    Ok(x.broadcast_mul(&Tensor::new(weights, x.device())?.to_dtype(x.dtype())?.unsqueeze(1)?)?)
}
