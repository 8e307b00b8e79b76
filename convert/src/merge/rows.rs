//! Rows that a merge puts in front of those of its sources: several below each other, in another order, scaled, with
//! noise, with zeros, or their mean.

use crate::tensor::Rows;
use moewe_engine::Result;
use moewe_engine::quant::Format;
use moewe_engine::sampler::Random;
use std::ops::Range;
use std::sync::Arc;

/// Rounds to what `format` holds.
pub(super) fn round(format: &Format, weights: &mut [f32]) {
    match format.name {
        "BF16" => weights.iter_mut().for_each(|weight| *weight = half::bf16::from_f32(*weight).to_f32()),
        "F16" => weights.iter_mut().for_each(|weight| *weight = half::f16::from_f32(*weight).to_f32()),
        _ => {}
    }
}

/// Matrices of as many rows each, below each other.
pub(super) struct Stack<'s> {
    pub(super) parts: Vec<Arc<dyn Rows + 's>>,
    pub(super) rows: u64,
}

impl Stack<'_> {
    /// Calls with each part that `rows` touch, its own rows, and its share of `out`.
    fn each<T>(
        &self,
        rows: Range<u64>,
        mut out: &mut [T],
        call: impl Fn(&dyn Rows, Range<u64>, &mut [T]) -> Result<()>,
    ) -> Result<()> {
        let row = out.len() / (rows.end - rows.start).max(1) as usize;
        let mut start = rows.start;
        while start < rows.end {
            let (part, first) = (start / self.rows, start % self.rows);
            let last = (first + rows.end - start).min(self.rows);
            let (own, rest) = out.split_at_mut((last - first) as usize * row);
            call(&*self.parts[part as usize], first..last, own)?;
            (out, start) = (rest, start + last - first);
        }
        Ok(())
    }
}

impl Rows for Stack<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.each(rows, out, |part, rows, out| part.read(rows, out))
    }

    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.each(rows, out, |part, rows, out| part.copy(rows, out))
    }
}

/// Rows in another order.
pub(super) struct Ordered<'s> {
    pub(super) inner: Arc<dyn Rows + 's>,
    pub(super) order: Vec<u64>, // of the inner rows
}

impl Rows for Ordered<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let row = out.len() / (rows.end - rows.start).max(1) as usize;
        let own = &self.order[rows.start as usize..rows.end as usize];
        own.iter().zip(out.chunks_exact_mut(row)).try_for_each(|(&i, out)| self.inner.read(i..i + 1, out))
    }

    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let row = out.len() / (rows.end - rows.start).max(1) as usize;
        let own = &self.order[rows.start as usize..rows.end as usize];
        own.iter().zip(out.chunks_exact_mut(row)).try_for_each(|(&i, out)| self.inner.copy(i..i + 1, out))
    }
}

/// A vector in another order.
pub(super) struct OrderedVector<'s> {
    pub(super) inner: Arc<dyn Rows + 's>,
    pub(super) order: Vec<u64>,
}

impl Rows for OrderedVector<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let mut whole = vec![0.0; out.len()];
        self.inner.read(rows, &mut whole)?;
        self.order.iter().zip(out).for_each(|(&i, out)| *out = whole[i as usize]);
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("a vector whose order changes has no format that it is stored in")
    }
}

/// An expert's matrix with noise, then scaled, as mergekit does both: in the floats that the source has.
pub(super) struct Changed<'s> {
    pub(super) inner: Arc<dyn Rows + 's>,
    pub(super) float: &'static Format,
    pub(super) noise: Option<(f64, u64)>, // factor and seed
    pub(super) scale: Option<f64>,
}

impl Rows for Changed<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.inner.read(rows.clone(), out)?;
        if let Some((factor, seed)) = self.noise {
            let row = out.len() / (rows.end - rows.start).max(1) as usize;
            for (i, out) in rows.zip(out.chunks_exact_mut(row)) {
                let mut random = Random::new(seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
                let mut noise: Vec<f32> = out.iter().map(|_| random.normal() as f32).collect();
                round(self.float, &mut noise);
                noise.iter_mut().for_each(|noise| *noise *= factor as f32);
                round(self.float, &mut noise);
                out.iter_mut().zip(noise).for_each(|(weight, noise)| *weight += noise);
            }
            round(self.float, out);
        }
        if let Some(scale) = self.scale {
            out.iter_mut().for_each(|weight| *weight *= scale as f32);
            round(self.float, out);
        }
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("what changes has no format that it is stored in")
    }
}

/// A matrix with zeros below and to the right.
pub(super) struct Widened<'s> {
    pub(super) inner: Arc<dyn Rows + 's>,
    pub(super) shape: [u64; 2], // of the inner one
    pub(super) columns: u64,
}

impl Rows for Widened<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let [have, columns] = self.shape;
        out.fill(0.0);
        let there = rows.start.min(have)..rows.end.min(have);
        if there.is_empty() {
            return Ok(());
        }
        let mut narrow = vec![0.0; ((there.end - there.start) * columns) as usize];
        self.inner.read(there, &mut narrow)?;
        let pairs = narrow.chunks_exact(columns as usize).zip(out.chunks_exact_mut(self.columns as usize));
        pairs.for_each(|(narrow, out)| out[..narrow.len()].copy_from_slice(narrow));
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("what is widened has no format that it is stored in")
    }
}

/// The weighted mean of matrices of one shape.
pub(super) struct Mean<'s> {
    pub(super) parts: Vec<(Arc<dyn Rows + 's>, f64)>,
}

impl Rows for Mean<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let total: f64 = self.parts.iter().map(|(_, weight)| weight).sum();
        let (mut own, mut sum) = (vec![0.0; out.len()], vec![0f64; out.len()]);
        for (part, weight) in &self.parts {
            part.read(rows.clone(), &mut own)?;
            sum.iter_mut().zip(&own).for_each(|(sum, &value)| *sum += weight * f64::from(value));
        }
        out.iter_mut().zip(sum).for_each(|(out, sum)| *out = (sum / total) as f32);
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("a mean has no format that it is stored in")
    }
}

/// Numbers of the merge's own.
pub(super) struct Numbers {
    pub(super) values: Vec<f32>,
    pub(super) columns: usize,
}

impl Rows for Numbers {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(
            &self.values[rows.start as usize * self.columns..rows.end as usize * self.columns],
        );
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("numbers have no format that they are stored in")
    }
}
