//! Importance: how large the inputs of every matrix are, column by column and expert by expert, measured on a text.
//!
//! A rounding error in a weight matters as much as the square of what it is multiplied with. The file formats are
//! llama.cpp's (`file.rs`); what quantization makes of the figures is the converter's.

mod file;
#[cfg(test)]
mod tests;

use super::watch;
use crate::error::Result;
use crate::model::{Observe, Site};
use crate::session::Engine;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// As many tokens as the layer's other experts count for, next to an expert's own.
const PRIOR_TOKENS: f64 = 4.0;

/// The sums of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Sums of squares of the inputs, `(experts, columns)`.
    pub sums: Vec<f32>,
    /// How many rows were summed up, `(experts)`; one for all where a file does not tell them apart.
    pub counts: Vec<f64>,
}

/// Importance of the tensors of a model, by GGUF's names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// The tensors.
    pub entries: BTreeMap<String, Entry>,
    /// The texts it was measured on.
    pub datasets: Vec<String>,
    /// Pieces of text.
    pub chunks: u32,
    /// Tokens of a piece.
    pub chunk_size: u32,
    /// Where it was read from.
    pub file: Option<PathBuf>,
}

impl Importance {
    /// Measures on `chunks` of tokens. `progress` hears (chunks done, chunks in all); its `false` stops.
    ///
    /// # Errors
    /// When the model cannot compute them, or `progress` stops it.
    pub fn measure(
        engine: &Engine,
        chunks: &[Vec<u32>],
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Self> {
        let mut sums = Sums { entries: BTreeMap::new(), experts: experts_of(engine) };
        watch(engine, chunks, &mut sums, progress)?;
        Ok(Self {
            entries: sums.entries,
            datasets: vec![],
            chunks: chunks.len() as u32,
            chunk_size: chunks.first().map_or(0, Vec::len) as u32,
            file: None,
        })
    }

    /// Mean squares of the inputs of a tensor of `experts` matrices with `columns` columns, `(experts, columns)`. An
    /// expert that saw few tokens or none leans on the mean of its layer. `None` where nothing is known.
    pub fn of(&self, tensor: &str, experts: usize, columns: usize) -> Option<Vec<f32>> {
        let entry = self.entries.get(tensor)?;
        if entry.sums.len() != experts * columns || !entry.is_seen() {
            return None;
        }
        let prior = entry.mean_row(columns);
        let rows = entry.sums.chunks_exact(columns).enumerate().flat_map(|(expert, sums)| {
            let count = entry.count(expert);
            let mean = move |(&sum, &prior): (&f32, &f64)| {
                ((f64::from(sum) + PRIOR_TOKENS * prior) / (count + PRIOR_TOKENS)) as f32
            };
            sums.iter().zip(&prior).map(mean).collect::<Vec<f32>>()
        });
        Some(rows.collect())
    }

    /// Experts that the text never reached, by tensor.
    pub fn unseen(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.entries.iter().filter_map(|(name, entry)| {
            let unseen: Vec<usize> = (0..entry.counts.len()).filter(|&i| entry.counts[i] == 0.0).collect();
            (!unseen.is_empty()).then_some((name.as_str(), unseen))
        })
    }
}

impl Entry {
    /// Rows that were summed up for one expert.
    pub fn count(&self, expert: usize) -> f64 {
        self.counts.get(expert).or(self.counts.first()).copied().unwrap_or(0.0)
    }

    fn is_seen(&self) -> bool {
        self.counts.iter().any(|&count| count > 0.0)
    }

    /// The mean squares over all experts.
    fn mean_row(&self, columns: usize) -> Vec<f64> {
        let (mut mean, mut rows) = (vec![0f64; columns], 0.0);
        for (expert, sums) in self.sums.chunks_exact(columns).enumerate() {
            rows += self.count(expert);
            mean.iter_mut().zip(sums).for_each(|(mean, &sum)| *mean += f64::from(sum));
        }
        mean.iter_mut().for_each(|mean| *mean /= rows);
        mean
    }

    fn add(&mut self, expert: usize, experts: usize, rows: &[f32], width: usize) {
        self.sums.resize(experts * width, 0.0);
        self.counts.resize(experts, 0.0);
        self.counts[expert] += (rows.len() / width) as f64;
        let sums = &mut self.sums[expert * width..][..width];
        for row in rows.chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
    }
}

/// How many experts each stacked tensor has.
fn experts_of(engine: &Engine) -> BTreeMap<String, usize> {
    let stacked = engine.gguf().tensors().iter().filter(|tensor| tensor.shape.len() == 3);
    stacked.map(|tensor| (tensor.name.clone(), tensor.shape[2] as usize)).collect()
}

/// Adds up squares as they come by.
struct Sums {
    entries: BTreeMap<String, Entry>,
    experts: BTreeMap<String, usize>,
}

impl Observe for Sums {
    fn matmul_input(&mut self, site: Site<'_>, rows: &[f32], width: usize) {
        let mut name = format!("{}.weight", site.tensor);
        // Where one tensor holds gate and up, both read the same: it counts once.
        let joined = name.replace(".ffn_up_exps.", ".ffn_gate_up_exps.");
        if self.experts.contains_key(&joined) {
            name = joined;
        }
        let (expert, experts) = match site.expert {
            Some(expert) => (expert as usize, self.experts.get(&name).copied().unwrap_or(0)),
            None => (0, 1),
        };
        if expert < experts {
            self.entries.entry(name).or_default().add(expert, experts, rows, width);
        }
    }
}
