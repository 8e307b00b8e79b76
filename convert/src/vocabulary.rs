//! Rows for tokens beyond the embedding: fine-tunes add tokens and forget to resize it. Nobody has trained such a token;
//! its rows are the mean of all others, as transformers' `resize_token_embeddings` makes them, but for its noise.

use crate::tensor::{Rows, Tensor};
use moewe_engine::Result;
use moewe_engine::quant::{Format, QuantizeRow};
use std::ops::Range;
use std::sync::Arc;

/// Tensors with a row for each token.
const TABLES: [&str; 2] = ["token_embd.weight", "output.weight"];

/// Values that are read at once.
const CHUNK: u64 = 1 << 20;

/// Gives the embedding and the head `rows` rows.
pub(crate) fn widen(tensors: &mut [Tensor<'_>], rows: u64) -> Result<()> {
    for tensor in tensors.iter_mut().filter(|tensor| TABLES.contains(&tensor.subject.name.as_str())) {
        let (from, mean) = (tensor.subject.rows(), mean(tensor)?);
        let subject = &mut tensor.subject;
        // The new rows cannot be copied, so they have to be made.
        let blocks = subject.stored.and_then(|format| Some((format, format.quantize?)));
        subject.stored = blocks.map(|(format, _)| format);
        subject.is_original &= subject.stored.is_some();
        subject.shape[0] = rows;
        tensor.contents = Arc::new(MoreRows { source: tensor.contents.clone(), from, mean, blocks });
    }
    Ok(())
}

fn mean(tensor: &Tensor) -> Result<Vec<f32>> {
    let (rows, columns) = (tensor.subject.rows(), tensor.subject.columns());
    let step = (CHUNK / columns).max(1);
    let mut sums = vec![0f64; columns as usize];
    for start in (0..rows).step_by(step as usize) {
        let values = tensor.read(start..rows.min(start + step))?;
        for row in values.chunks_exact(columns as usize) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }
    Ok(sums.into_iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect())
}

/// Rows of a source, then rows that all equal their mean.
struct MoreRows<'s> {
    source: Arc<dyn Rows + 's>,
    from: u64,
    mean: Vec<f32>,
    blocks: Option<(&'static Format, QuantizeRow)>,
}

impl MoreRows<'_> {
    /// Those of `rows` that the source has, and how many there are.
    fn known(&self, rows: &Range<u64>) -> (Range<u64>, usize) {
        let known = rows.start.min(self.from)..rows.end.min(self.from);
        (known.clone(), (known.end - known.start) as usize)
    }
}

impl Rows for MoreRows<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let (known, count) = self.known(&rows);
        let (old, new) = out.split_at_mut(count * self.mean.len());
        new.chunks_exact_mut(self.mean.len()).for_each(|row| row.copy_from_slice(&self.mean));
        self.source.read(known, old)
    }

    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let Some((format, quantize)) = self.blocks else { return self.source.copy(rows, out) };
        let (known, count) = self.known(&rows);
        let row_bytes = format.row_bytes(self.mean.len());
        let (old, new) = out.split_at_mut(count * row_bytes);
        new.chunks_exact_mut(row_bytes).for_each(|row| quantize(&self.mean, None, row));
        self.source.copy(known, old)
    }
}
