//! A source with adapters merged into it: each touched matrix becomes `W + s B A` as its rows are read, in f32 before
//! anything is rounded. All others stay what they are.

use super::{Change, Changes, Low, Named};
use crate::report::Report;
use crate::source::Source;
use crate::tensor::{Rows, Tensor};
use moewe_engine::gguf::Metadata;
use moewe_engine::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A source with changes.
pub(crate) struct Merged<'s> {
    inner: Box<dyn Source + 's>,
    metadata: Metadata,
    notes: Vec<String>,
}

impl<'s> Merged<'s> {
    /// Reads the adapters and finds their places; each changes the base, not what another made of it.
    pub(crate) fn new(mut inner: Box<dyn Source + 's>, adapters: &[Named]) -> Result<Self> {
        let (mut all, mut notes) = (All(vec![]), Vec::new());
        let mut metadata = inner.metadata().clone();
        for named in adapters {
            let changes = Changes::read(&named.path, &*inner)?;
            let (count, name) = (changes.tensors.len(), &changes.name);
            notes.push(format!("adapter {name}, times {}, changes {count} tensors", named.scale));
            notes.extend(changes.notes.clone());
            // What was trained on conversations brings the words between their turns.
            if named.scale != 0.0 {
                changes.templates.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
            }
            all.0.push((named.scale, changes));
        }
        inner.change(&mut all)?;
        Ok(Self { inner, metadata, notes })
    }
}

/// Adapters with their factors.
struct All(Vec<(f64, Changes)>);

impl crate::source::Change for All {
    fn change<'t>(&mut self, tensor: Tensor<'t>) -> Result<Tensor<'t>> {
        let name = &tensor.subject.name;
        let own = self.0.iter_mut().filter_map(|(scale, all)| Some((*scale, all.tensors.remove(name)?)));
        let own: Vec<(f64, Change)> = own.filter(|(scale, _)| *scale != 0.0).collect();
        if own.is_empty() { Ok(tensor) } else { changed(tensor, own) }
    }
}

impl Source for Merged<'_> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[Tensor<'_>] {
        self.inner.tensors()
    }

    fn change(&mut self, change: &mut dyn crate::source::Change) -> Result<()> {
        self.inner.change(change)
    }

    fn release(&self) {
        self.inner.release();
    }

    fn tell(&self, report: &mut Report) {
        self.inner.tell(report);
        report.remarks.extend(self.notes.clone());
    }

    fn accept(&self, file: &Path) -> Result<()> {
        self.inner.accept(file)
    }
}

fn changed<'s>(tensor: Tensor<'s>, changes: Vec<(f64, Change)>) -> Result<Tensor<'s>> {
    let Tensor { mut subject, contents } = tensor;
    let has = |of: fn(&Change) -> bool| changes.iter().any(|(_, change)| of(change));
    let is_single = changes.len() == 1 && changes[0].0 == 1.0;
    if !is_single && (has(|change| change.magnitude.is_some()) || has(|change| change.whole.is_some())) {
        return Err(Error::unsupported(
            format!(
                "{} is replaced or given new lengths by an adapter (DoRA, modules_to_save)",
                subject.name
            ),
            "merge that adapter alone and with the factor 1",
        ));
    }
    let rows = Changed {
        inner: contents,
        columns: subject.columns() as usize,
        rows_per_expert: if subject.shape.len() < 2 { 1 } else { subject.rows_per_expert() },
        changes,
    };
    subject.float = subject.float.or(subject.stored);
    subject.stored = None;
    subject.is_original = false;
    Ok(Tensor { subject, contents: Arc::new(rows) })
}

struct Changed<'s> {
    inner: Arc<dyn Rows + 's>,
    columns: usize,
    rows_per_expert: u64,
    changes: Vec<(f64, Change)>,
}

impl Rows for Changed<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        if let [(_, Change { whole: Some(whole), .. })] = &self.changes[..] {
            let start = rows.start as usize * self.columns;
            out.copy_from_slice(&whole[start..start + out.len()]);
            return Ok(());
        }
        self.inner.read(rows.clone(), out)?;
        let mut sum = vec![0f64; self.columns];
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns)) {
            let (expert, own) =
                ((row / self.rows_per_expert) as usize, (row % self.rows_per_expert) as usize);
            for (scale, change) in &self.changes {
                if let Some(Some(low)) = change.lows.get(expert) {
                    add(low, own, *scale, &mut sum, out);
                }
                if let Some(magnitude) = &change.magnitude {
                    lengthen(out, magnitude[row as usize]);
                }
            }
        }
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("a sum has no format that it is stored in")
    }
}

/// Adds a row of `scale * B A`.
fn add(low: &Low, row: usize, scale: f64, sum: &mut [f64], out: &mut [f32]) {
    sum.fill(0.0);
    let b = &low.b[row * low.rank..(row + 1) * low.rank];
    for (&b, a) in b.iter().zip(low.a.chunks_exact(sum.len())) {
        sum.iter_mut().zip(a).for_each(|(sum, &a)| *sum += f64::from(b) * f64::from(a));
    }
    let scale = scale * low.scale;
    out.iter_mut().zip(sum).for_each(|(out, sum)| *out += (scale * *sum) as f32);
}

/// Gives a row another length.
fn lengthen(row: &mut [f32], length: f32) {
    let now = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let factor = f64::from(length) / now.max(f64::MIN_POSITIVE);
    row.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
}
