//! Causal attention of H query heads over K key/value heads (Vaswani et al. 2017; grouped: Ainslie et al. 2023).
//!
//! The fast form works on blocks of query rows, so no square of the context is ever stored, and skips what lies above
//! the diagonal; the backward computes the probabilities again from the stored logarithms of their sums (Dao et al.
//! 2022, "FlashAttention").

use super::dropout::Dropout;
use super::gemm::{Matrix, Target, Threads, multiply};
use super::host::{Loops, Real, hold, is_host, largest, vectorized, wide, with_real};
use super::norm::dot;
use crate::Result;
use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

const BLOCK: usize = 64; // query rows of a block: its scores stay in the cache of a core

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Factor of the scores.
    pub scale: f64,
    /// Dropped probabilities, while training.
    pub dropout: Option<Dropout>,
    /// `(B, T)`: where the text of each row begins in its sequence, which is as far back as it sees; without, at 0.
    pub starts: Option<&'a [u32]>,
}

/// What attention computes and what its backward needs.
pub struct Attended {
    /// `(B, H, T, D)`.
    pub output: Tensor,
    log_sums: Option<Tensor>, // (B, H, T), only of the fast form
}

/// Gradients of queries, keys and values.
pub type HeadGradients = [Tensor; 3];

/// What one (sequence, key head) works on.
struct Group<'a, T> {
    query: &'a [T], // (H / K, T, D)
    key: &'a [T],   // (T, D)
    value: &'a [T], // (T, D)
    length: usize,
    size: usize,
    first_row: usize,          // its first (sequence, head, position), counted over everything
    starts: Option<&'a [u32]>, // (T)
}

impl Attention<'_> {
    /// Attention of `query (B, H, T, D)` to `key` and `value (B, K, T, D)`, each row to itself and what is before it
    /// in its text.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Attended> {
        if !is_host(query) {
            return Ok(Attended { output: self.forward_plain(query, key, value)?, log_sums: None });
        }
        let (batch, heads, length, size) = query.dims4()?;
        let group = heads / key.dim(1)?;
        with_real!(query, T => {
            let (q, k, v) = (hold::<T>(query)?, hold::<T>(key)?, hold::<T>(value)?);
            let (q, k, v): (&[T], &[T], &[T]) = (&q, &k, &v);
            let mut output = vec![0.0; q.len()];
            let mut log_sums = vec![0.0; batch * heads * length];
            let work = (output.par_chunks_mut(group * length * size), log_sums.par_chunks_mut(group * length));
            work.into_par_iter().enumerate().for_each(|(i, (output, log_sums))| {
                let group = self.group(i, (batch, group), (length, size), [q, k, v]);
                self.group_forward(&group, output, log_sums);
            });
            let output = Tensor::from_vec(output, query.shape(), query.device())?;
            let log_sums = Tensor::from_vec(log_sums, (batch, heads, length), query.device())?;
            Ok(Attended { output, log_sums: Some(log_sums) })
        })
    }

    fn group_forward<T: Real>(&self, group: &Group<T>, output: &mut [T], log_sums: &mut [T]) {
        let (length, size) = (group.length, group.size);
        let mut scores = vec![T::from_f64(0.0); BLOCK * length];
        for (head, output) in output.chunks_exact_mut(length * size).enumerate() {
            for start in (0..length).step_by(BLOCK) {
                let rows = BLOCK.min(length - start);
                let low = group.low(start);
                let (columns, seen) = (start + rows - low, group.seen(start, low));
                self.scores(group, head, start, &mut scores);
                let log_sums = &mut log_sums[head * length + start..][..rows];
                vectorized(Softmax { scores: &mut scores, columns, seen, log_sums });
                self.drop(&mut scores, (low, columns), group.row(head, start));
                let target = &mut output[start * size..(start + rows) * size];
                let probabilities = Matrix::new(&scores, rows, columns, columns);
                let value = Matrix::new(&group.value[low * size..], columns, size, size);
                multiply(
                    Target { data: target, row_stride: size, keep: false },
                    T::from_f64(1.0),
                    probabilities,
                    value,
                    Threads::One,
                );
            }
        }
    }

    /// Scaled scores of the block of rows from `start` with the columns from the first that one of them sees.
    fn scores<T: Real>(&self, group: &Group<T>, head: usize, start: usize, scores: &mut [T]) {
        let (length, size) = (group.length, group.size);
        let rows = BLOCK.min(length - start);
        let low = group.low(start);
        let columns = start + rows - low;
        let query = Matrix::new(&group.query[(head * length + start) * size..], rows, size, size);
        let key = Matrix::new(&group.key[low * size..], columns, size, size).transposed();
        let target = Target { data: scores, row_stride: columns, keep: false };
        multiply(target, T::from_f64(self.scale), query, key, Threads::One);
    }

    /// Drops and rescales probabilities `(rows, columns)` whose first column is `low`; `first` is their first row,
    /// counted over everything.
    fn drop<T: Real>(&self, probabilities: &mut [T], (low, columns): (usize, usize), first: usize) {
        let Some(dropout) = self.dropout else { return };
        for (i, values) in probabilities.chunks_exact_mut(columns).take(BLOCK).enumerate() {
            dropout.row_from(first + i, low, values);
        }
    }

    /// The `i`-th of the groups of a batch.
    fn group<'a, T>(
        &'a self,
        i: usize,
        (batch, heads): (usize, usize),
        (length, size): (usize, usize),
        [q, k, v]: [&'a [T]; 3],
    ) -> Group<'a, T> {
        let own = length * size;
        let groups = k.len() / (own * batch); // of a sequence
        Group {
            query: &q[i * heads * own..][..heads * own],
            key: &k[i * own..][..own],
            value: &v[i * own..][..own],
            length,
            size,
            first_row: i * heads * length,
            starts: self.starts.map(|starts| &starts[i / groups * length..][..length]),
        }
    }

    /// Gradients of the three inputs, given `output` (B, H, T, D) as [`Attention::forward`] gave it and its gradient.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn backward(
        &self,
        [query, key, value]: [&Tensor; 3],
        attended: &Attended,
        gradient: &Tensor,
    ) -> Result<HeadGradients> {
        let Some(log_sums) = &attended.log_sums else {
            return self.backward_plain([query, key, value], &attended.output, gradient);
        };
        let (batch, heads, length, size) = query.dims4()?;
        let group = heads / key.dim(1)?;
        with_real!(query, T => {
            let (q, k, v) = (hold::<T>(query)?, hold::<T>(key)?, hold::<T>(value)?);
            let (output, log_sums, gradient) = (hold::<T>(&attended.output)?, hold::<T>(log_sums)?, hold::<T>(gradient)?);
            let (q, k, v): (&[T], &[T], &[T]) = (&q, &k, &v);
            let (output, log_sums, gradient): (&[T], &[T], &[T]) = (&output, &log_sums, &gradient);
            let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
            let own = length * size;
            (dq.par_chunks_mut(group * own), dk.par_chunks_mut(own), dv.par_chunks_mut(own))
                .into_par_iter()
                .enumerate()
                .for_each(|(i, (dq, dk, dv))| {
                    let known = Known {
                        output: &output[i * group * own..][..group * own],
                        log_sums: &log_sums[i * group * length..][..group * length],
                        gradient: &gradient[i * group * own..][..group * own],
                    };
                    let group = self.group(i, (batch, group), (length, size), [q, k, v]);
                    self.group_backward(&group, &known, [dq, dk, dv]);
                });
            let tensor = |values: Vec<T>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
            Ok([tensor(dq, query)?, tensor(dk, key)?, tensor(dv, value)?])
        })
    }

    fn group_backward<T: Real>(&self, group: &Group<T>, known: &Known<T>, [dq, dk, dv]: [&mut [T]; 3]) {
        let (length, size) = (group.length, group.size);
        let one = T::from_f64(1.0);
        let zeros = || vec![T::from_f64(0.0); BLOCK * length];
        let (mut scores, mut dropped, mut slopes) = (zeros(), zeros(), zeros());
        for head in 0..group.query.len() / (length * size) {
            for start in (0..length).step_by(BLOCK) {
                let rows = BLOCK.min(length - start);
                let low = group.low(start);
                let (columns, seen) = (start + rows - low, group.seen(start, low));
                let first = (head * length + start) * size;
                let (output, gradient) =
                    (&known.output[first..][..rows * size], &known.gradient[first..][..rows * size]);
                let log_sums = &known.log_sums[head * length + start..][..rows];
                self.scores(group, head, start, &mut scores);
                vectorized(Probabilities { scores: &mut scores, columns, seen, log_sums });
                let gradient_rows = Matrix::new(gradient, rows, size, size);
                let values = Matrix::new(&group.value[low * size..], columns, size, size).transposed();
                let target = Target { data: &mut slopes, row_stride: columns, keep: false };
                multiply(target, one, gradient_rows, values, Threads::One);
                self.drop(&mut slopes, (low, columns), group.row(head, start));
                vectorized(Slopes {
                    slopes: &mut slopes,
                    probabilities: &scores,
                    columns,
                    output,
                    gradient,
                    size,
                    scale: T::from_f64(self.scale),
                });
                let kept = if self.dropout.is_some() {
                    dropped[..rows * columns].copy_from_slice(&scores[..rows * columns]);
                    self.drop(&mut dropped, (low, columns), group.row(head, start));
                    &dropped
                } else {
                    &scores
                };
                let slope_rows = Matrix::new(&slopes, rows, columns, columns);
                let key = Matrix::new(&group.key[low * size..], columns, size, size);
                let target = Target { data: &mut dq[first..], row_stride: size, keep: false };
                multiply(target, one, slope_rows, key, Threads::One);
                let query = Matrix::new(&group.query[first..], rows, size, size);
                let target = Target { data: &mut dk[low * size..], row_stride: size, keep: true };
                multiply(target, one, slope_rows.transposed(), query, Threads::One);
                let probabilities = Matrix::new(kept, rows, columns, columns).transposed();
                let target = Target { data: &mut dv[low * size..], row_stride: size, keep: true };
                multiply(target, one, probabilities, gradient_rows, Threads::One);
            }
        }
    }

    /// Probabilities `(B, H, T, T)` before dropout, with keys and values repeated for their query heads.
    fn probabilities_plain(&self, query: &Tensor, key: &Tensor) -> Result<Tensor> {
        let (batch, _, length, _) = query.dims4()?;
        let scores = (wide(&query.matmul(&key.t()?)?)? * self.scale)?;
        let mut mask = causal(length, scores.dtype(), query.device())?;
        if let Some(starts) = self.starts {
            mask = mask.broadcast_add(&within_texts(starts, (batch, length), &mask)?)?;
        }
        let scores = scores.broadcast_add(&mask)?;
        let powers = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        Ok(powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?)
    }

    pub(super) fn forward_plain(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let heads = query.dim(1)?;
        let probabilities = self.probabilities_plain(query, &repeat(key, heads)?)?;
        let probabilities = self.drop_plain(&probabilities)?.to_dtype(query.dtype())?;
        Ok(probabilities.matmul(&repeat(value, heads)?)?)
    }

    fn drop_plain(&self, probabilities: &Tensor) -> Result<Tensor> {
        self.dropout.map_or(Ok(probabilities.clone()), |dropout| dropout.apply(probabilities))
    }

    pub(super) fn backward_plain(
        &self,
        [query, key, value]: [&Tensor; 3],
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<HeadGradients> {
        let heads = query.dim(1)?;
        let dtype = query.dtype();
        let (keys, values) = (repeat(key, heads)?, repeat(value, heads)?);
        let probabilities = self.probabilities_plain(query, &keys)?;
        let kept = self.drop_plain(&probabilities)?.to_dtype(dtype)?;
        let dv = kept.transpose(2, 3)?.contiguous()?.matmul(gradient)?;
        let slopes = self.drop_plain(&wide(&gradient.matmul(&values.t()?)?)?)?;
        let level = (wide(output)? * wide(gradient)?)?.sum_keepdim(D::Minus1)?;
        let slopes = ((slopes.broadcast_sub(&level)? * probabilities)? * self.scale)?.to_dtype(dtype)?;
        let dq = slopes.matmul(&keys)?;
        let dk = slopes.transpose(2, 3)?.contiguous()?.matmul(query)?;
        Ok([dq, unrepeat(&dk, key.dim(1)?)?, unrepeat(&dv, key.dim(1)?)?])
    }
}

/// What the backward of a group is given.
struct Known<'a, T> {
    output: &'a [T],   // (H / K, T, D)
    log_sums: &'a [T], // (H / K, T)
    gradient: &'a [T], // (H / K, T, D)
}

impl<'a, T> Group<'a, T> {
    /// The first column that a row from `start` on sees: texts follow each other.
    fn low(&self, start: usize) -> usize {
        self.starts.map_or(0, |starts| starts[start] as usize)
    }

    /// What the rows from `start` on see of the columns from `low` on.
    fn seen(&self, start: usize, low: usize) -> Seen<'a> {
        Seen { diagonal: start - low, low, starts: self.starts.map(|starts| &starts[start..]) }
    }

    fn row(&self, head: usize, position: usize) -> usize {
        self.first_row + head * self.length + position
    }
}

/// Which columns the rows of a block see.
#[derive(Clone, Copy)]
struct Seen<'a> {
    diagonal: usize, // the column of the first row itself
    low: usize,      // the position of column 0
    starts: Option<&'a [u32]>,
}

impl Seen<'_> {
    /// What row `i` sees of its `row`; the rest becomes 0.
    #[inline(always)]
    fn of<T: Real>(self, i: usize, row: &mut [T]) -> &mut [T] {
        let first = self.starts.map_or(0, |starts| starts[i] as usize - self.low);
        let (seen, hidden) = row.split_at_mut(self.diagonal + i + 1);
        hidden.fill(T::from_f64(0.0));
        let (before, seen) = seen.split_at_mut(first);
        before.fill(T::from_f64(0.0));
        seen
    }
}

/// Scores `(rows, columns)` become probabilities.
struct Softmax<'a, T> {
    scores: &'a mut [T],
    columns: usize,
    seen: Seen<'a>,
    log_sums: &'a mut [T], // (rows)
}

impl<T: Real> Loops for Softmax<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.scores.chunks_exact_mut(self.columns).zip(self.log_sums);
        for (i, (row, log_sum)) in rows.enumerate() {
            let seen = self.seen.of(i, row);
            let largest = largest(seen);
            seen.iter_mut().for_each(|x| *x = (*x - largest).exp());
            let total = super::norm::sum(seen, |x| x);
            let share = T::from_f64(1.0) / total;
            seen.iter_mut().for_each(|x| *x *= share);
            *log_sum = largest + total.ln();
        }
    }
}

/// The same from known logarithms of the sums.
struct Probabilities<'a, T> {
    scores: &'a mut [T],
    columns: usize,
    seen: Seen<'a>,
    log_sums: &'a [T], // (rows)
}

impl<T: Real> Loops for Probabilities<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.scores.chunks_exact_mut(self.columns).zip(self.log_sums);
        for (i, (row, &log_sum)) in rows.enumerate() {
            self.seen.of(i, row).iter_mut().for_each(|x| *x = (*x - log_sum).exp());
        }
    }
}

/// Gradients of probabilities become gradients of scores, `p * (dp - o * do) * scale`, with rows o of the output and do
/// of its gradient: their product is the sum of p * dp.
struct Slopes<'a, T> {
    slopes: &'a mut [T],    // (rows, columns)
    probabilities: &'a [T], // (rows, columns)
    columns: usize,
    output: &'a [T],   // (rows, size)
    gradient: &'a [T], // (rows, size)
    size: usize,
    scale: T,
}

impl<T: Real> Loops for Slopes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let known = self.output.chunks_exact(self.size).zip(self.gradient.chunks_exact(self.size));
        let rows =
            self.slopes.chunks_exact_mut(self.columns).zip(self.probabilities.chunks_exact(self.columns));
        for ((slopes, probabilities), (output, gradient)) in rows.zip(known) {
            let level = dot(output, gradient);
            for (slope, &probability) in slopes.iter_mut().zip(probabilities) {
                *slope = probability * (*slope - level) * self.scale;
            }
        }
    }
}

fn causal(length: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mask = |i: usize| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..length * length).map(mask).collect();
    Ok(Tensor::from_vec(mask, (length, length), device)?.to_dtype(dtype)?)
}

/// Hides what is of another text: `(B, 1, T, T)`.
fn within_texts(starts: &[u32], (batch, length): (usize, usize), like: &Tensor) -> Result<Tensor> {
    let starts = Tensor::new(starts, like.device())?;
    let (rows, columns) = (starts.reshape((batch, 1, length, 1))?, starts.reshape((batch, 1, 1, length))?);
    let shape = (batch, 1, length, length);
    let is_same = rows.broadcast_as(shape)?.eq(&columns.broadcast_as(shape)?)?;
    let zeros = Tensor::zeros(shape, like.dtype(), like.device())?;
    let hidden = Tensor::full(f32::NEG_INFINITY, shape, like.device())?.to_dtype(like.dtype())?;
    Ok(is_same.where_cond(&zeros, &hidden)?)
}

/// `(B, K, T, D)` with each head as often as query heads share it.
fn repeat(heads: &Tensor, count: usize) -> Result<Tensor> {
    let (batch, own, length, size) = heads.dims4()?;
    let repeated = heads.unsqueeze(2)?.broadcast_as((batch, own, count / own, length, size))?;
    Ok(repeated.reshape((batch, count, length, size))?)
}

/// The gradient of [`repeat`].
fn unrepeat(heads: &Tensor, own: usize) -> Result<Tensor> {
    let (batch, count, length, size) = heads.dims4()?;
    Ok(heads.reshape((batch, own, count / own, length, size))?.sum(2)?)
}
