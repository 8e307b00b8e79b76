//! Between rows `(N, (H + 2K) * D)` of queries, keys and values side by side and heads `(B, H, T, D)` of their own,
//! with the norm over each head and the rotary positions (Su et al. 2021) on the way.

use super::gradient::Gradient;
use super::host::{Held, Loops, ROWS, Real, hold, is_host, vectorized, wide, with_real};
use super::norm::{Norm, NormGradients, NormKind, row_backward, statistics};
use crate::Result;
use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

/// Which numbers of a head form a pair that is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStyle {
    /// j and j + D/2, as GPT-NeoX does.
    Halves,
    /// 2j and 2j + 1, as the paper does.
    Interleaved,
}

/// The angles of rotary positions.
pub struct Rotation {
    style: RotationStyle,
    cos: Tensor, // (context, D/2)
    sin: Tensor, // (context, D/2)
}

impl Rotation {
    /// Angles `p * theta^(-2j / size)` for positions below `context`.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn new(
        style: RotationStyle,
        theta: f64,
        (context, size): (usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let angle = |i: usize| {
            let (position, pair) = (i / (size / 2), i % (size / 2));
            position as f64 * theta.powf(-2.0 * pair as f64 / size as f64)
        };
        let angles: Vec<f64> = (0..context * (size / 2)).map(angle).collect();
        let table = |function: fn(f64) -> f64| -> Result<Tensor> {
            let values = angles.iter().map(|&angle| function(angle)).collect();
            Ok(Tensor::from_vec(values, (context, size / 2), &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)?)
        };
        Ok(Self { style, cos: table(f64::cos)?, sin: table(f64::sin)? })
    }
}

/// RMS norms before the rotation: over each head, or over all heads of a token where the weights are that long.
#[derive(Clone, Copy)]
pub struct HeadNorm<'a> {
    /// Added to the mean square.
    pub epsilon: f64,
    /// `(D)` for every query head, or `(H * D)`.
    pub query: &'a Tensor,
    /// `(D)` for every key head, or `(K * D)`.
    pub key: &'a Tensor,
}

/// How rows and heads belong together.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// B.
    pub batch: usize,
    /// T.
    pub length: usize,
    /// H.
    pub count: usize,
    /// K.
    pub count_kv: usize,
    /// D.
    pub size: usize,
    /// Norms of queries and keys.
    pub norm: Option<HeadNorm<'a>>,
    /// Rotation of queries and keys.
    pub rotation: Option<&'a Rotation>,
    /// The position of each row `(N)`; without, that in its sequence.
    pub positions: Option<&'a [u32]>,
}

/// One of queries, keys and values: its place in a row and what happens to it.
struct Part<'a> {
    first: usize, // head of the row
    count: usize,
    norm: Option<(f64, &'a Tensor)>,
    rotation: Option<&'a Rotation>,
}

impl<'a> Heads<'a> {
    fn parts(&self) -> [Part<'a>; 3] {
        let (query, key) = (self.norm.map(|n| (n.epsilon, n.query)), self.norm.map(|n| (n.epsilon, n.key)));
        let (keys, values) = (self.count, self.count + self.count_kv);
        [
            Part { first: 0, count: self.count, norm: query, rotation: self.rotation },
            Part { first: keys, count: self.count_kv, norm: key, rotation: self.rotation },
            Part { first: values, count: self.count_kv, norm: None, rotation: None },
        ]
    }

    fn width(&self) -> usize {
        (self.count + 2 * self.count_kv) * self.size
    }

    /// Queries `(B, H, T, D)`, keys and values `(B, K, T, D)` of `rows (N, (H + 2K) * D)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn split(&self, rows: &Tensor) -> Result<[Tensor; 3]> {
        let [query, key, value] = self.parts();
        Ok([self.split_part(rows, &query)?, self.split_part(rows, &key)?, self.split_part(rows, &value)?])
    }

    fn split_part(&self, rows: &Tensor, part: &Part) -> Result<Tensor> {
        if !is_host(rows) {
            return self.split_part_plain(rows, part);
        }
        with_real!(rows, T => self.split_part_host::<T>(rows, part))
    }

    fn split_part_host<T: Real>(&self, rows: &Tensor, part: &Part) -> Result<Tensor> {
        let (length, size, width) = (self.length, self.size, self.width());
        let held = hold::<T>(rows)?;
        let from: &[T] = &held;
        let weights = Weights::<T>::hold(part)?;
        let steps = weights.steps();
        let mut out = vec![T::from_f64(0.0); self.batch * part.count * length * size];
        out.par_chunks_mut(length * size).enumerate().for_each(|(i, out)| {
            let (sequence, head) = (i / part.count, i % part.count);
            let start = sequence * length * width + part.first * size;
            let positions = self.positions.map(|all| &all[sequence * length..]);
            vectorized(Forward { steps, from: &from[start..], width, head, size, positions, out });
        });
        Ok(Tensor::from_vec(out, (self.batch, part.count, length, size), rows.device())?)
    }

    #[cfg(test)]
    pub(super) fn split_plain(&self, rows: &Tensor) -> Result<[Tensor; 3]> {
        let [query, key, value] = self.parts();
        let part = |part| self.split_part_plain(rows, part);
        Ok([part(&query)?, part(&key)?, part(&value)?])
    }

    fn split_part_plain(&self, rows: &Tensor, part: &Part) -> Result<Tensor> {
        let columns = self.columns_of(rows, part)?;
        let columns = match part.norm {
            Some((epsilon, weight)) => {
                rms(epsilon, weight).forward_plain(&columns.reshape(((), weight.elem_count()))?)?
            }
            None => columns,
        };
        let heads = columns.reshape((self.batch, self.length, part.count, self.size))?.transpose(1, 2)?;
        let heads = self.rotate_plain(&heads.contiguous()?, part.rotation, 1.0)?;
        Ok(heads.to_dtype(rows.dtype())?.contiguous()?)
    }

    /// A part's columns `(N, count * D)` in the precision of sums.
    fn columns_of(&self, rows: &Tensor, part: &Part) -> Result<Tensor> {
        Ok(wide(&rows.narrow(1, part.first * self.size, part.count * self.size)?)?.contiguous()?)
    }

    /// The gradient of `rows`, which [`Heads::split`] took, given those of its three results. The gradients of the
    /// norms' weights, query first, are added to `norms`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn join(
        &self,
        rows: &Tensor,
        heads: [&Tensor; 3],
        norms: Option<(&Gradient, &Gradient)>,
    ) -> Result<Tensor> {
        let norms = [norms.map(|n| n.0), norms.map(|n| n.1), None];
        if !is_host(rows) {
            return self.join_plain(rows, heads, norms);
        }
        with_real!(rows, T => {
            let mut out = vec![0.0; rows.elem_count()];
            for ((part, dy), gradient) in self.parts().iter().zip(heads).zip(norms) {
                self.join_part::<T>(rows, part, (dy, gradient), &mut out)?;
            }
            Ok(Tensor::from_vec(out, rows.shape(), rows.device())?)
        })
    }

    /// Writes a part's columns of the gradient of `rows`.
    fn join_part<T: Real>(
        &self,
        rows: &Tensor,
        part: &Part,
        (dy, gradient): (&Tensor, Option<&Gradient>),
        out: &mut [T],
    ) -> Result<()> {
        let (dy, rows) = (hold::<T>(dy)?, hold::<T>(rows)?);
        let (dy, rows): (&[T], &[T]) = (&dy, &rows);
        let weights = Weights::<T>::hold(part)?;
        let steps = weights.steps();
        let task = ROWS * self.width();
        let tasks = out.par_chunks_mut(task).zip(rows.par_chunks(task)).enumerate();
        let sums: Vec<Vec<T>> = tasks
            .map(|(i, (out, rows))| {
                let mut sums = vec![T::from_f64(0.0); steps.norm.map_or(0, |(_, weight)| weight.len())];
                vectorized(Backward {
                    heads: self,
                    part,
                    steps,
                    rows,
                    dy,
                    first: i * ROWS,
                    out,
                    sums: &mut sums,
                });
                sums
            })
            .collect();
        gradient.map_or(Ok(()), |gradient| gradient.add_sums(&sums))
    }

    pub(super) fn join_plain(
        &self,
        rows: &Tensor,
        heads: [&Tensor; 3],
        norms: [Option<&Gradient>; 3],
    ) -> Result<Tensor> {
        let mut columns = vec![];
        for ((part, dy), gradient) in self.parts().iter().zip(heads).zip(norms) {
            let mut dy = self.merge_plain(&self.rotate_plain(&wide(dy)?, part.rotation, -1.0)?)?;
            if let (Some((epsilon, weight)), Some(gradient)) = (part.norm, gradient) {
                let (shape, normed) = (dy.shape().clone(), ((), weight.elem_count()));
                let (x, rows) = (self.columns_of(rows, part)?.reshape(normed)?, dy.reshape(normed)?);
                let gradients = NormGradients { weight: gradient, bias: None };
                dy = rms(epsilon, weight).backward_plain(&x, &rows, None, gradients)?.reshape(shape)?;
            }
            columns.push(dy);
        }
        Ok(Tensor::cat(&columns, 1)?.to_dtype(rows.dtype())?)
    }

    /// Heads `(B, H, T, D)` side by side in rows `(N, H * D)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn merge(&self, heads: &Tensor) -> Result<Tensor> {
        if !is_host(heads) {
            return self.merge_plain(heads);
        }
        let (length, size) = (self.length, self.size);
        let count = heads.dim(1)?;
        with_real!(heads, T => {
            let held = hold::<T>(heads)?;
            let from: &[T] = &held;
            let mut out = vec![0.0; from.len()];
            out.par_chunks_mut(count * size).enumerate().for_each(|(n, row)| {
                let (sequence, t) = (n / length, n % length);
                for (head, out) in row.chunks_exact_mut(size).enumerate() {
                    let start = ((sequence * count + head) * length + t) * size;
                    out.copy_from_slice(&from[start..start + size]);
                }
            });
            Ok(Tensor::from_vec(out, (self.batch * length, count * size), heads.device())?)
        })
    }

    fn merge_plain(&self, heads: &Tensor) -> Result<Tensor> {
        Ok(heads.transpose(1, 2)?.contiguous()?.reshape((self.batch * self.length, ()))?)
    }

    fn rotate_plain(&self, heads: &Tensor, rotation: Option<&Rotation>, direction: f64) -> Result<Tensor> {
        let Some(rotation) = rotation else { return Ok(heads.clone()) };
        let (batch, count, length, size) = heads.dims4()?;
        let half = size / 2;
        let table = |table: &Tensor| -> Result<Tensor> {
            let rows = match self.positions {
                Some(positions) => {
                    let rows = table.index_select(&Tensor::new(positions, table.device())?, 0)?;
                    rows.reshape((batch, 1, length, half))?
                }
                None => table.narrow(0, 0, length)?,
            };
            Ok(rows.to_dtype(heads.dtype())?)
        };
        let (cos, sin) = (table(&rotation.cos)?, (table(&rotation.sin)? * direction)?);
        let (pairs, axis) = match rotation.style {
            RotationStyle::Halves => (heads.reshape((batch, count, length, 2, half))?, 3),
            RotationStyle::Interleaved => (heads.reshape((batch, count, length, half, 2))?, 4),
        };
        let side = |i| pairs.narrow(axis, i, 1)?.squeeze(axis);
        let (a, b) = (side(0)?, side(1)?);
        let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let right = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        Ok(Tensor::stack(&[left, right], if axis == 3 { D::Minus2 } else { D::Minus1 })?
            .reshape(heads.shape())?)
    }

    /// Rows `(N, H * D)` as heads `(B, H, T, D)`: the gradient of [`Heads::merge`].
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn unmerge(&self, rows: &Tensor) -> Result<Tensor> {
        let whole = Heads { count_kv: 0, norm: None, rotation: None, ..*self };
        let part = Part { first: 0, count: self.count, norm: None, rotation: None };
        whole.split_part(rows, &part)
    }
}

fn rms(epsilon: f64, weight: &Tensor) -> Norm<'_> {
    Norm { kind: NormKind::Rms, epsilon, weight, bias: None }
}

type Tables<'a, T> = Option<(RotationStyle, &'a [T], &'a [T])>;

/// What happens to each head of a part: norm, then rotation.
#[derive(Clone, Copy)]
struct Steps<'a, T> {
    norm: Option<(f64, &'a [T])>, // epsilon and weight (D), or (count * D)
    tables: Tables<'a, T>,        // cos and sin (context, D/2)
}

/// The numbers of a part's norm and rotation, borrowed while this lives.
struct Weights<'a, T> {
    norm: Option<(f64, Held<'a, T>)>,
    tables: Option<(RotationStyle, [Held<'a, T>; 2])>,
}

impl<'a, T: Real> Weights<'a, T> {
    fn hold(part: &Part<'a>) -> Result<Self> {
        let norm = part.norm.map(|(epsilon, weight)| hold::<T>(weight).map(|weight| (epsilon, weight)));
        let tables =
            |r: &'a Rotation| Ok::<_, crate::Error>((r.style, [hold::<T>(&r.cos)?, hold::<T>(&r.sin)?]));
        Ok(Self { norm: norm.transpose()?, tables: part.rotation.map(tables).transpose()? })
    }

    fn steps(&self) -> Steps<'_, T> {
        let norm = self.norm.as_ref().map(|(epsilon, weight)| (*epsilon, &**weight));
        let tables = self.tables.as_ref().map(|(style, [cos, sin])| (*style, &**cos, &**sin));
        Steps { norm, tables }
    }
}

/// All rows of one head of a part, whose rows begin `width` apart in `from`.
struct Forward<'a, T> {
    steps: Steps<'a, T>,
    from: &'a [T],
    width: usize,
    head: usize, // of the part
    size: usize,
    positions: Option<&'a [u32]>, // of these rows
    out: &'a mut [T],             // (T, D)
}

impl<T: Real> Loops for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (t, out) in self.out.chunks_exact_mut(self.size).enumerate() {
            let (row, first) = (&self.from[t * self.width..], self.head * self.size);
            let x = &row[first..][..self.size];
            match self.steps.norm {
                Some((epsilon, weight)) => {
                    let is_own = weight.len() == self.size;
                    let (normed, weight) =
                        if is_own { (x, weight) } else { (&row[..weight.len()], &weight[first..]) };
                    let (_, scale) = statistics(NormKind::Rms, epsilon, normed);
                    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * scale * weight;
                    }
                }
                None => out.copy_from_slice(x),
            }
            let position = self.positions.map_or(t, |positions| positions[t] as usize);
            rotate(out, self.steps.tables, position, T::from_f64(1.0));
        }
    }
}

/// A part's columns of the gradients of some rows.
struct Backward<'a, T> {
    heads: &'a Heads<'a>,
    part: &'a Part<'a>,
    steps: Steps<'a, T>,
    rows: &'a [T],     // the input of these rows
    dy: &'a [T],       // (B, count, T, D), of all rows
    first: usize,      // number of the first of these rows
    out: &'a mut [T],  // the gradient of these rows
    sums: &'a mut [T], // (D), the gradient of the norm's weight
}

impl<T: Real> Loops for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (size, width, length) = (self.heads.size, self.heads.width(), self.heads.length);
        for (i, (out, x)) in self.out.chunks_exact_mut(width).zip(self.rows.chunks_exact(width)).enumerate() {
            let row = self.first + i;
            let (sequence, t) = (row / length, row % length);
            let position = self.heads.positions.map_or(t, |positions| positions[row] as usize);
            let part = self.part.first * size..(self.part.first + self.part.count) * size;
            for head in 0..self.part.count {
                let place = part.start + head * size;
                let from = ((sequence * self.part.count + head) * length + t) * size;
                let out = &mut out[place..place + size];
                out.copy_from_slice(&self.dy[from..from + size]);
                rotate(out, self.steps.tables, position, T::from_f64(-1.0));
            }
            let Some((epsilon, weight)) = self.steps.norm else { continue };
            let normed = x[part.clone()].chunks_exact(weight.len());
            for (x, out) in normed.zip(out[part].chunks_exact_mut(weight.len())) {
                row_backward(NormKind::Rms, epsilon, x, weight, out, self.sums);
            }
        }
    }
}

/// Turns each pair of `head` by the angles of position `t`, backwards for `direction` -1.
#[inline(always)]
fn rotate<T: Real>(head: &mut [T], tables: Tables<T>, t: usize, direction: T) {
    let Some((style, cos, sin)) = tables else { return };
    let half = head.len() / 2;
    let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
    match style {
        RotationStyle::Halves => {
            let (left, right) = head.split_at_mut(half);
            for j in 0..half {
                let (a, b, s) = (left[j], right[j], sin[j] * direction);
                left[j] = a * cos[j] - b * s;
                right[j] = a * s + b * cos[j];
            }
        }
        RotationStyle::Interleaved => {
            for (j, pair) in head.chunks_exact_mut(2).enumerate() {
                let (a, b, s) = (pair[0], pair[1], sin[j] * direction);
                pair[0] = a * cos[j] - b * s;
                pair[1] = a * s + b * cos[j];
            }
        }
    }
}
