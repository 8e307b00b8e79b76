//! Matrix products of rows that are sorted by expert with the matrix of each expert, and with what is learned beside it.

use super::gemm::{Matrix, Target, Threads, multiply};
use super::gradient::Gradient;
use super::host::{Real, hold, is_host, modify, with_real};
use super::linear::Learned;
use crate::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows of one task of the fast form: enough for the product, few enough to share an uneven load.
const TASK: usize = 256;

/// Where the rows of each expert begin: `(E + 1)`, from 0 to the number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups(pub Vec<usize>);

/// What each expert's matrix does to its rows.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Forward,  // y = x * w^T
    Backward, // dx = dy * w
}

impl Groups {
    fn ranges(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.0.windows(2).enumerate().map(|(expert, bounds)| (expert, bounds[0], bounds[1]))
    }

    /// `x (N, in)` times the transposed `(out, in)` of each row's expert in `weights (E, out, in)`: `(N, out)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn linear(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        self.product(x, weights, Side::Forward)
    }

    /// `y (N, out)`, which nobody else holds, plus [`Groups::linear`], or [`Groups::linear_backward`].
    fn add_linear(&self, y: Tensor, x: &Tensor, weights: &Tensor, is_backward: bool) -> Result<Tensor> {
        let side = if is_backward { Side::Backward } else { Side::Forward };
        if !is_host(x) || x.elem_count() == 0 {
            return Ok((y + self.product_plain(x, weights, side)?)?);
        }
        let width = y.dim(1)?;
        with_real!(x, T => {
            let (x_held, held) = (hold::<T>(x)?, hold::<T>(weights)?);
            let (x_all, shape): (&[T], _) = (&x_held, weights.dims3()?);
            modify::<T>(&y, |out| self.multiply_tasks((out, width), x_all, (&held, shape), (side, true)))?;
        });
        Ok(y)
    }

    /// The gradient of `x` in [`Groups::linear`], given that of the result.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn linear_backward(&self, dy: &Tensor, weights: &Tensor) -> Result<Tensor> {
        self.product(dy, weights, Side::Backward)
    }

    fn product(&self, x: &Tensor, weights: &Tensor, side: Side) -> Result<Tensor> {
        if !is_host(x) {
            return self.product_plain(x, weights, side);
        }
        let (rows, (_, outputs, inputs)) = (x.dim(0)?, weights.dims3()?);
        let width = if side == Side::Forward { outputs } else { inputs };
        with_real!(x, T => {
            let (x_held, held) = (hold::<T>(x)?, hold::<T>(weights)?);
            let (x_all, shape): (&[T], _) = (&x_held, weights.dims3()?);
            let mut out = vec![0.0; rows * width];
            self.multiply_tasks((&mut out, width), x_all, (&held, shape), (side, false));
            Ok(Tensor::from_vec(out, (rows, width), x.device())?)
        })
    }

    fn multiply_tasks<T: Real>(
        &self,
        (out, width): (&mut [T], usize),
        x: &[T],
        (weights, (_, outputs, inputs)): (&[T], (usize, usize, usize)),
        (side, keep): (Side, bool),
    ) {
        let inner = if side == Side::Forward { inputs } else { outputs };
        self.tasks(out, width).into_par_iter().for_each(|(expert, first, out)| {
            let count = out.len() / width;
            let x = Matrix::new(&x[first * inner..], count, inner, inner);
            let weight = Matrix::new(&weights[expert * outputs * inputs..], outputs, inputs, inputs);
            let weight = if side == Side::Forward { weight.transposed() } else { weight };
            multiply(
                Target { data: out, row_stride: width, keep },
                T::from_f64(1.0),
                x,
                weight,
                Threads::One,
            );
        });
    }

    /// Pieces of `out (N, width)` with their expert and first row.
    fn tasks<'a, T>(&self, mut out: &'a mut [T], width: usize) -> Vec<(usize, usize, &'a mut [T])> {
        let mut tasks = vec![];
        for (expert, start, end) in self.ranges() {
            for first in (start..end).step_by(TASK) {
                let (piece, rest) = out.split_at_mut(TASK.min(end - first) * width);
                tasks.push((expert, first, piece));
                out = rest;
            }
        }
        tasks
    }

    fn product_plain(&self, x: &Tensor, weights: &Tensor, side: Side) -> Result<Tensor> {
        let mut parts = vec![];
        for (expert, start, end) in self.ranges().filter(|(_, start, end)| start < end) {
            let weight = weights.get(expert)?;
            let weight = if side == Side::Forward { weight.t()? } else { weight };
            parts.push(x.narrow(0, start, end - start)?.matmul(&weight)?);
        }
        if parts.is_empty() {
            let width = weights.dim(if side == Side::Forward { 1 } else { 2 })?;
            return Ok(Tensor::zeros((0, width), x.dtype(), x.device())?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    #[cfg(test)]
    pub(super) fn linear_plain(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        self.product_plain(x, weights, Side::Forward)
    }

    /// Adds to the gradient of weights `(E, out, in)`, given `dy (N, out)` and `x (N, in)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn weight_backward(&self, dy: &Tensor, x: &Tensor, gradient: &Gradient) -> Result<()> {
        if gradient.is_frozen() {
            return Ok(());
        }
        if !is_host(x) {
            return self.weight_backward_plain(dy, x, gradient);
        }
        let (outputs, inputs) = (dy.dim(1)?, x.dim(1)?);
        with_real!(x, T => {
            let (dy, x) = (hold::<T>(dy)?, hold::<T>(x)?);
            let (dy, x): (&[T], &[T]) = (&dy, &x);
            gradient.modify::<T>(|total| self.add_products(total, (dy, outputs), (x, inputs)))
        })
    }

    fn add_products<T: Real>(
        &self,
        total: &mut [T],
        (dy, outputs): (&[T], usize),
        (x, inputs): (&[T], usize),
    ) {
        let bounds = &self.0;
        total.par_chunks_mut(outputs * inputs).enumerate().for_each(|(expert, total)| {
            let (start, count) = (bounds[expert], bounds[expert + 1] - bounds[expert]);
            total.par_chunks_mut(TASK * inputs).enumerate().for_each(|(task, total)| {
                let columns = total.len() / inputs;
                if count == 0 {
                    return;
                }
                let dy =
                    Matrix::new(&dy[start * outputs + task * TASK..], count, columns, outputs).transposed();
                let x = Matrix::new(&x[start * inputs..], count, inputs, inputs);
                let target = Target { data: total, row_stride: inputs, keep: true };
                multiply(target, T::from_f64(1.0), dy, x, Threads::One);
            });
        });
    }

    pub(super) fn weight_backward_plain(&self, dy: &Tensor, x: &Tensor, gradient: &Gradient) -> Result<()> {
        let mut parts = vec![];
        for (_, start, end) in self.ranges() {
            let rows = |t: &Tensor| t.narrow(0, start, end - start);
            parts.push(if start < end {
                rows(dy)?.t()?.contiguous()?.matmul(&rows(x)?)?
            } else {
                Tensor::zeros((dy.dim(1)?, x.dim(1)?), x.dtype(), x.device())?
            });
        }
        gradient.add(&Tensor::stack(&parts, 0)?)
    }

    /// `y (N, width)` plus the row of `biases (E, width)` of each row's expert, times `weights[n]` where there are any.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn add_bias(&self, y: &Tensor, biases: &Tensor, weights: Option<&[f64]>) -> Result<Tensor> {
        let rows = biases.index_select(&self.expert_of_rows(y)?, 0)?;
        let rows = match weights {
            Some(weights) => rows.broadcast_mul(&column(weights, y)?)?,
            None => rows,
        };
        Ok((y + rows.to_dtype(y.dtype())?)?)
    }

    /// Adds to the gradient of the biases in [`Groups::add_bias`], given that of the result.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn bias_backward(&self, dy: &Tensor, weights: Option<&[f64]>, gradient: &Gradient) -> Result<()> {
        if gradient.is_frozen() {
            return Ok(());
        }
        let mut dy = super::wide(dy)?;
        if let Some(weights) = weights {
            dy = dy.broadcast_mul(&column(weights, &dy)?)?;
        }
        let zeros = Tensor::zeros((self.0.len() - 1, dy.dim(1)?), dy.dtype(), dy.device())?;
        gradient.add(&zeros.index_add(&self.expert_of_rows(&dy)?, &dy, 0)?)
    }

    /// The gradient of the weights in [`Groups::add_bias`].
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn bias_weights_backward(&self, dy: &Tensor, biases: &Tensor) -> Result<Vec<f64>> {
        let rows = super::wide(&biases.index_select(&self.expert_of_rows(dy)?, 0)?)?;
        Ok((rows * super::wide(dy)?)?.sum(1)?.to_dtype(candle_core::DType::F64)?.to_vec1()?)
    }

    fn expert_of_rows(&self, like: &Tensor) -> Result<Tensor> {
        let experts: Vec<u32> =
            self.ranges().flat_map(|(expert, start, end)| (start..end).map(move |_| expert as u32)).collect();
        Ok(Tensor::new(experts, like.device())?)
    }
}

fn column(weights: &[f64], like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::new(weights, like.device())?.to_dtype(like.dtype())?.unsqueeze(1)?)
}

/// The matrices of all experts as they are applied.
pub struct GroupedLinear<'a> {
    /// `(E, out, in)`.
    pub weights: Learned<'a>,
    /// Beside them.
    pub adapter: Option<GroupedLowRank<'a>>,
}

/// `scale * (x * a^T) * b^T` with matrices of each expert.
pub struct GroupedLowRank<'a> {
    /// `(E, r, in)`.
    pub a: Learned<'a>,
    /// `(E, out, r)`.
    pub b: Learned<'a>,
    /// Factor of the product.
    pub scale: f64,
}

impl GroupedLinear<'_> {
    /// The rows `x (N, in)` through the matrix of their expert: `(N, out)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, groups: &Groups, x: &Tensor) -> Result<Tensor> {
        let y = groups.linear(x, &self.weights.values)?;
        let Some(GroupedLowRank { a, b, scale }) = &self.adapter else { return Ok(y) };
        let inner = (groups.linear(x, &a.values)? * *scale)?;
        groups.add_linear(y, &inner, &b.values, false)
    }

    /// The gradient of `x`, given that of the result; those of what is learned are added to theirs.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn backward(&self, groups: &Groups, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        groups.weight_backward(dy, x, self.weights.gradient)?;
        let dx = groups.linear_backward(dy, &self.weights.values)?;
        let Some(GroupedLowRank { a, b, scale }) = &self.adapter else { return Ok(dx) };
        groups.weight_backward(dy, &(groups.linear(x, &a.values)? * *scale)?, b.gradient)?;
        let d_inner = (groups.linear_backward(dy, &b.values)? * *scale)?;
        groups.weight_backward(&d_inner, x, a.gradient)?;
        groups.add_linear(dx, &d_inner, &a.values, true)
    }
}
