//! A matrix as it is applied: `y = x * w^T + b`, with what is learned beside it (Hu et al. 2021, "LoRA"; Liu et al.
//! 2024, "DoRA"). This is the one place where a product meets its adapters; `grouped.rs` has it for experts.

use super::dropout::Dropout;
use super::gemm::{Matrix, Target, Threads, multiply};
use super::gradient::Gradient;
use super::host::{hold, is_host, modify, wide, with_real};
use crate::Result;
use candle_core::Tensor;

/// Numbers with the place of their gradient.
#[derive(Clone)]
pub struct Learned<'a> {
    /// In the precision of the product that they are used in.
    pub values: Tensor,
    /// Where the gradient goes.
    pub gradient: &'a Gradient,
}

/// A matrix, its bias, and the adapters beside it.
pub struct Linear<'a> {
    /// `(out, in)`.
    pub weight: Learned<'a>,
    /// `(out)`.
    pub bias: Option<Learned<'a>>,
    /// Beside rows of the matrix that do not overlap.
    pub adapters: Vec<LowRank<'a>>,
}

/// `scale * (x * a^T) * b^T`, added to some columns of a product.
pub struct LowRank<'a> {
    /// `(r, in)`.
    pub a: Learned<'a>,
    /// `(rows, r)`.
    pub b: Learned<'a>,
    /// Factor of the product.
    pub scale: f64,
    /// The first row of the matrix that it is beside.
    pub first: usize,
    /// Dropped from `x` before `a`, while training.
    pub dropout: Option<Dropout>,
    /// `(rows)`, in the precision of sums: the lengths that rows of the sum of both matrices are brought to.
    pub magnitude: Option<Learned<'a>>,
}

impl Linear<'_> {
    /// `x (N, in)` through the matrix: `(N, out)`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.matmul(&self.weight.values.t()?)?;
        for adapter in &self.adapters {
            y = adapter.forward(x, y)?;
            if let Some(factors) = adapter.factors(&self.weight.values)? {
                y = scaled(&y, adapter.first, &factors)?;
            }
        }
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.values)?,
            None => y,
        })
    }

    /// The gradient of `x`, given that of the result; those of what is learned are added to theirs.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn backward(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        if let Some(bias) = &self.bias {
            bias.gradient.add_row_sum(dy)?;
        }
        let mut dy = dy.clone();
        for adapter in &self.adapters {
            if let Some(factors) = adapter.factors(&self.weight.values)? {
                adapter.magnitude_backward(&dy, x, &self.weight.values)?;
                dy = scaled(&dy, adapter.first, &factors)?;
            }
        }
        self.weight.gradient.add_product(&dy, x)?;
        let mut dx = dy.matmul(&self.weight.values)?;
        for adapter in &self.adapters {
            dx = adapter.backward(&dy, x, dx)?;
        }
        Ok(dx)
    }
}

impl LowRank<'_> {
    fn rows(&self) -> Result<usize> {
        Ok(self.b.values.dim(0)?)
    }

    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        self.dropout.map_or(Ok(x.clone()), |dropout| dropout.apply(x))
    }

    /// `y` with this product added to its columns.
    fn forward(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let inner = self.dropped(x)?.matmul(&self.a.values.t()?)?;
        with_product(y, self.first, &inner, (&self.b.values.t()?, self.scale))
    }

    fn backward(&self, dy: &Tensor, x: &Tensor, dx: Tensor) -> Result<Tensor> {
        let dy = dy.narrow(1, self.first, self.rows()?)?.contiguous()?;
        let x = self.dropped(x)?;
        let inner = (x.matmul(&self.a.values.t()?)? * self.scale)?;
        self.b.gradient.add_product(&dy, &inner)?;
        let d_inner = (dy.matmul(&self.b.values)? * self.scale)?;
        self.a.gradient.add_product(&d_inner, &x)?;
        match self.dropout {
            None => with_product(dx, 0, &d_inner, (&self.a.values, 1.0)),
            Some(dropout) => Ok((dx + dropout.apply(&d_inner.matmul(&self.a.values)?)?)?),
        }
    }

    /// The lengths of the rows of both matrices together, `(rows)`, where there is a magnitude.
    fn lengths(&self, weight: &Tensor) -> Result<Tensor> {
        let own = (wide(&self.b.values)?.matmul(&wide(&self.a.values)?)? * self.scale)?;
        let both = (wide(&weight.narrow(0, self.first, self.rows()?)?)? + own)?;
        Ok(both.sqr()?.sum(1)?.sqrt()?)
    }

    /// What the columns are multiplied by; a constant but for the magnitude (DoRA, section 4.3).
    fn factors(&self, weight: &Tensor) -> Result<Option<Tensor>> {
        let of = |magnitude: &Learned| Ok((&magnitude.values / self.lengths(weight)?)?);
        self.magnitude.as_ref().map(of).transpose()
    }

    /// Adds to the gradient of the magnitude: the columns before they were multiplied are computed again.
    fn magnitude_backward(&self, dy: &Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
        let Some(magnitude) = &self.magnitude else { return Ok(()) };
        let rows = self.rows()?;
        let own = x.matmul(&weight.narrow(0, self.first, rows)?.t()?)?;
        let inner = self.dropped(x)?.matmul(&self.a.values.t()?)?;
        let before = wide(&with_product(own, 0, &inner, (&self.b.values.t()?, self.scale))?)?;
        let slopes = (before * wide(&dy.narrow(1, self.first, rows)?)?)?.sum(0)?;
        magnitude.gradient.add(&(slopes / self.lengths(weight)?)?)
    }
}

/// `y (N, out)`, which nobody else holds, with `factor * h * m` added to its columns from `first` on.
pub(super) fn with_product(
    y: Tensor,
    first: usize,
    h: &Tensor,
    (m, factor): (&Tensor, f64),
) -> Result<Tensor> {
    if !is_host(&y) || h.elem_count() == 0 {
        return with_product_plain(&y, first, h, (m, factor));
    }
    let ((rows, inner), columns, width) = (h.dims2()?, m.dim(1)?, y.dim(1)?);
    // A transposed matrix is read as it lies.
    let (m, is_transposed) = if m.is_contiguous() { (m.clone(), false) } else { (m.t()?, true) };
    with_real!(y, T => {
        let (h, m) = (hold::<T>(h)?, hold::<T>(&m)?);
        let right = match is_transposed {
            true => Matrix::new(&m, columns, inner, inner).transposed(),
            false => Matrix::new(&m, inner, columns, columns),
        };
        modify::<T>(&y, |y| {
            let target = Target { data: &mut y[first..], row_stride: width, keep: true };
            multiply(target, T::from_f64(factor), Matrix::new(&h, rows, inner, inner), right, Threads::All);
        })?;
    });
    Ok(y)
}

pub(super) fn with_product_plain(
    y: &Tensor,
    first: usize,
    h: &Tensor,
    (m, factor): (&Tensor, f64),
) -> Result<Tensor> {
    let added = (h.matmul(m)? * factor)?;
    on_columns(y, first, added.dim(1)?, |columns| Ok((columns + added)?))
}

/// `y` with the columns from `first` on multiplied by `factors`.
fn scaled(y: &Tensor, first: usize, factors: &Tensor) -> Result<Tensor> {
    let factors = factors.to_dtype(y.dtype())?;
    on_columns(y, first, factors.dim(0)?, |columns| Ok(columns.broadcast_mul(&factors)?))
}

fn on_columns(
    y: &Tensor,
    first: usize,
    count: usize,
    change: impl FnOnce(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let rest = y.dim(1)? - first - count;
    let changed = change(y.narrow(1, first, count)?)?;
    let mut parts = vec![changed];
    if first > 0 {
        parts.insert(0, y.narrow(1, 0, first)?);
    }
    if rest > 0 {
        parts.push(y.narrow(1, first + count, rest)?);
    }
    Ok(Tensor::cat(&parts, 1)?)
}
