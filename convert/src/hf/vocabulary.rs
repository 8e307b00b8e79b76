//! Rows for tokens beyond the embedding: fine-tunes add tokens and forget to resize it. Nobody has trained such a token;
//! its rows are the mean of all others, as transformers' `resize_token_embeddings` makes them, but for its noise.

use super::plan::{Output, Plan};

/// Tensors with a row for each token.
const TABLES: [&str; 2] = ["token_embd.weight", "output.weight"];

/// Values that are read at once.
const CHUNK: u64 = 1 << 20;

/// Rows that all equal the mean of those before them.
#[derive(Debug)]
pub(super) struct MoreRows {
    /// Rows before.
    pub(super) from: u64,
    /// `(columns)`.
    pub(super) mean: Vec<f32>,
}

/// Gives the embedding and the head `rows` rows.
pub(crate) fn widen(plan: &mut Plan<'_>, rows: u64) {
    for output in plan.outputs.iter_mut().filter(|output| TABLES.contains(&output.name.as_str())) {
        let from = output.rows();
        let mean = mean(output);
        output.add_rows(rows, MoreRows { from, mean });
    }
}

fn mean(output: &Output<'_>) -> Vec<f32> {
    let (rows, columns) = (output.rows(), output.columns());
    let step = (CHUNK / columns.max(1)).max(1);
    let mut sums = vec![0f64; columns as usize];
    let mut values = vec![0f32; (step.min(rows) * columns) as usize];
    for start in (0..rows).step_by(step as usize) {
        let end = rows.min(start + step);
        let values = &mut values[..((end - start) * columns) as usize];
        output.read(start..end, values);
        for row in values.chunks_exact(columns as usize) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }
    sums.into_iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect()
}
