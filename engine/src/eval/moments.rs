//! Second moments of matrix inputs, `H = transpose(X) * X`: what error-compensated quantization needs to know of a text.
//!
//! Long rows are cut into spans, and only inputs of one span are multiplied with each other, which bounds memory.
//! Matrices that read the same rows share one sum.

use super::watch;
use crate::error::Result;
use crate::gguf::TensorName;
use crate::model::{Observe, Site};
use crate::session::Engine;
use crate::simd::{Isa, LANES, Lanes, Work};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The most columns that are multiplied with each other.
pub const SPAN: usize = 2048;

/// Which inputs: GGUF's name of the first tensor that reads them, without `.weight`, and the expert.
pub type Key = (String, Option<u32>);

/// Sums over a text, for some layers of a model.
#[derive(Default)]
pub struct Moments {
    sums: BTreeMap<Key, Sum>,
    layers: std::ops::Range<usize>,
    head: bool,
}

/// Sums of the products of one matrix's inputs.
pub struct Sum {
    /// Rows that were summed up.
    pub rows: usize,
    /// Length of a row.
    pub columns: usize,
    /// One matrix `(n, n)` per span of `n` columns, of which only the lower triangle is filled.
    pub spans: Vec<Vec<f32>>,
    span: usize, // columns of one, but for the last
}

/// How columns are cut: into spans of `SPAN`, and what remains.
pub fn spans_of(columns: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    spans(columns, SPAN)
}

fn spans(columns: usize, span: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..columns).step_by(span.max(1)).map(move |start| start..columns.min(start + span))
}

/// Bytes that the sums of a matrix with so many columns take.
pub fn bytes_of(columns: usize) -> usize {
    spans_of(columns).map(|span| span.len() * span.len() * size_of::<f32>()).sum()
}

/// The tensor whose sums stand for those of `tensor`: queries, keys and values read the same rows, gate and up too.
pub fn reader_of(tensor: &str) -> String {
    let name = TensorName::of(tensor);
    let part = match name.part {
        "attn_k" | "attn_v" => "attn_q",
        "ffn_gate" => "ffn_up",
        "ffn_gate_exps" => "ffn_up_exps",
        "ffn_gate_shexp" => "ffn_up_shexp",
        other => other,
    };
    TensorName { part, ..name }.to_string()
}

impl Moments {
    /// Sums for the matrices of `layers`, and of the head if wanted, over `chunks` of tokens.
    ///
    /// # Errors
    /// When the model cannot compute them, or `progress` stops it.
    pub fn measure(
        engine: &Engine,
        chunks: &[Vec<u32>],
        layers: std::ops::Range<usize>,
        head: bool,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Self> {
        let mut moments = Self { sums: BTreeMap::new(), layers, head };
        watch(engine, chunks, &mut moments, progress)?;
        Ok(moments)
    }

    /// The sums, by [`reader_of`] the tensors and expert.
    pub fn into_sums(self) -> BTreeMap<Key, Sum> {
        self.sums
    }

    fn wants(&self, tensor: &str) -> bool {
        let is_router = tensor.ends_with("_inp") || tensor.ends_with("_inp_shexp");
        match TensorName::of(tensor).layer {
            Some(layer) => self.layers.contains(&layer) && !is_router && reader_of(tensor) == tensor,
            None => self.head && tensor == "output",
        }
    }
}

impl Observe for Moments {
    fn matmul_input(&mut self, site: Site<'_>, rows: &[f32], width: usize) {
        if self.wants(site.tensor) {
            let key = (site.tensor.to_owned(), site.expert);
            self.sums.entry(key).or_insert_with(|| Sum::new(width)).add(rows);
        }
    }
}

impl Sum {
    fn new(columns: usize) -> Self {
        let spans = spans_of(columns).map(|span| vec![0.0; span.len() * span.len()]).collect();
        Self { rows: 0, columns, spans, span: SPAN }
    }

    /// Sums in one span, however many columns there are.
    pub fn whole(columns: usize) -> Self {
        Self { rows: 0, columns, spans: vec![vec![0.0; columns * columns]], span: columns }
    }

    /// Adds rows of inputs.
    pub fn add(&mut self, rows: &[f32]) {
        self.rows += rows.len() / self.columns;
        for (span, sums) in spans(self.columns, self.span).zip(&mut self.spans) {
            let inputs: Vec<&[f32]> = rows.chunks_exact(self.columns).map(|row| &row[span.clone()]).collect();
            let bands = sums.par_chunks_mut(span.len() * BAND).enumerate();
            bands.for_each(|(i, sums)| Isa::detect().run(Band { first: i * BAND, inputs: &inputs, sums }));
        }
    }
}

/// Rows of the sums that are a task.
const BAND: usize = 32;

/// Some rows of the sums from `first` on.
struct Band<'a> {
    first: usize,
    inputs: &'a [&'a [f32]],
    sums: &'a mut [f32],
}

impl Work for Band<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        // Four inputs at a time, so that sums are loaded and stored a quarter as often.
        for inputs in self.inputs.chunks(4) {
            for (i, sums) in self.sums.chunks_exact_mut(inputs[0].len()).enumerate() {
                add_products::<L>(inputs, self.first + i, sums);
            }
        }
    }
}

/// Adds the products of value `k` of up to four inputs with all values up to it.
#[inline(always)]
fn add_products<L: Lanes>(inputs: &[&[f32]], k: usize, sums: &mut [f32]) {
    let (sums, rest) = sums[..=k].as_chunks_mut::<LANES>();
    let whole = sums.len() * LANES;
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut sum = L::load(sums);
        for input in inputs {
            sum = sum + L::splat(input[k]) * L::load(&input.as_chunks().0[i]);
        }
        *sums = sum.store();
    }
    for (j, sum) in (whole..).zip(rest) {
        inputs.iter().for_each(|input| *sum += input[k] * input[j]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_products_within_spans() {
        let columns = SPAN + 3;
        let row = |seed: usize| (0..columns).map(move |i| ((i * 7 + seed * 13) % 11) as f32 - 5.0);
        let rows: Vec<f32> = (0..5).flat_map(row).collect();
        let mut sum = Sum::new(columns);
        sum.add(&rows[..2 * columns]);
        sum.add(&rows[2 * columns..]);
        assert_eq!((sum.rows, sum.spans[1].len(), bytes_of(columns)), (5, 9, (SPAN * SPAN + 9) * 4));
        let at = |row: usize, i: usize| rows[row * columns + i];
        for (i, j) in [(0, 0), (7, 2), (SPAN - 1, 100)] {
            let expected: f32 = (0..5).map(|row| at(row, i) * at(row, j)).sum();
            assert_eq!(sum.spans[0][i * SPAN + j], expected);
        }
        let expected: f32 = (0..5).map(|row| at(row, SPAN + 2) * at(row, SPAN)).sum();
        assert_eq!(sum.spans[1][2 * 3], expected);
    }

    #[test]
    fn readers_of_the_same_rows_share() {
        assert_eq!(reader_of("blk.3.attn_v"), "blk.3.attn_q");
        assert_eq!(reader_of("blk.3.ffn_gate_exps"), "blk.3.ffn_up_exps");
        assert_eq!(reader_of("blk.3.ffn_down_exps"), "blk.3.ffn_down_exps");
        assert_eq!(reader_of("output"), "output");
    }
}
