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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Subject;

    /// Rows of 32 times their own number.
    struct Numbers(&'static Format);

    impl Rows for Numbers {
        fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
            rows.zip(out.chunks_exact_mut(32)).for_each(|(row, out)| out.fill(row as f32));
            Ok(())
        }
        fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
            let mut weights = vec![0.0; 32 * (rows.end - rows.start) as usize];
            self.read(rows, &mut weights)?;
            (self.0.quantize.unwrap())(&weights, None, out);
            Ok(())
        }
    }

    #[test]
    fn new_rows_are_the_mean_as_floats_and_as_blocks() {
        let format = Format::by_name("Q8_0").unwrap();
        let subject = Subject {
            name: "output.weight".into(),
            shape: vec![5, 32],
            stored: Some(format),
            float: None,
            is_original: true,
            padding: 0,
        };
        let mut tensors = [Tensor { subject, contents: Arc::new(Numbers(format)) }];
        widen(&mut tensors, 8).unwrap();
        let [Tensor { subject, contents }] = &tensors;
        assert_eq!((&subject.shape[..], subject.stored), (&[8, 32][..], Some(format)));
        let expected = [0.0, 1.0, 2.0, 3.0, 4.0, 2.0, 2.0, 2.0];
        for rows in [0..8, 0..3, 3..7, 5..6, 6..8] {
            let count = (rows.end - rows.start) as usize;
            let (mut floats, mut blocks) = (vec![0.0; 32 * count], vec![0; format.row_bytes(32) * count]);
            contents.read(rows.clone(), &mut floats).unwrap();
            let firsts: Vec<f32> = floats.iter().step_by(32).copied().collect();
            assert_eq!(firsts, expected[rows.start as usize..rows.end as usize], "{rows:?}");
            contents.copy(rows.clone(), &mut blocks).unwrap();
            let mut back = vec![0.0; floats.len()];
            (format.dequantize)(&blocks, &mut back);
            assert!(floats.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.01), "{rows:?}");
        }
    }
}
