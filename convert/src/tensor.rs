//! What a tensor is on its way into a file, and how its rows come as floats or as they are stored. Nothing here knows
//! where they come from; whoever changes a tensor on its way puts rows of its own in front of those that it had.

use moewe_engine::Result;
use moewe_engine::quant::Format;
use std::ops::Range;
use std::sync::Arc;

/// What is known of a tensor without reading it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// GGUF's name.
    pub(crate) name: String,
    /// Lengths of the axes, slowest first.
    pub(crate) shape: Vec<u64>,
    /// The format whose bytes [`Rows::copy`] yields.
    pub(crate) stored: Option<&'static Format>,
    /// The floats that it is read from, or the blocks that an adapter was added to; none for blocks as they are, and for
    /// what is computed.
    pub(crate) float: Option<&'static Format>,
    /// Whether [`Self::stored`] is how the model was trained or published: other formats of more bits hold no more.
    pub(crate) is_original: bool,
    /// Zeros at the end of each row that the model does not have.
    pub(crate) padding: u64,
}

impl Subject {
    /// Weights of a row, at least 1.
    pub(crate) fn columns(&self) -> u64 {
        self.shape.last().map_or(1, |&columns| columns.max(1))
    }

    /// Rows, those of all experts together.
    pub(crate) fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product()
    }

    /// Rows of one expert's matrix, at least 1; a tensor without experts is one matrix.
    pub(crate) fn rows_per_expert(&self) -> u64 {
        self.shape.iter().rev().nth(1).map_or(1, |&rows| rows.max(1))
    }

    /// Matrices, which are experts where there are several.
    pub(crate) fn experts(&self) -> usize {
        self.shape.iter().rev().skip(2).product::<u64>() as usize
    }

    /// All weights.
    pub(crate) fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether its bytes need not change to be in `format`.
    pub(crate) fn is_in(&self, format: &Format) -> bool {
        self.stored == Some(format)
    }
}

/// Rows that can be read in any order; `out` holds exactly those that are asked for.
pub(crate) trait Rows: Send + Sync {
    /// Writes rows as f32.
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()>;
    /// Writes rows as blocks of [`Subject::stored`]; nobody asks for them where there is none.
    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()>;
}

/// A tensor on its way.
#[derive(Clone)]
pub(crate) struct Tensor<'s> {
    pub(crate) subject: Subject,
    pub(crate) contents: Arc<dyn Rows + 's>,
}

impl Tensor<'_> {
    /// Rows as f32.
    pub(crate) fn read(&self, rows: Range<u64>) -> Result<Vec<f32>> {
        let mut weights = vec![0f32; ((rows.end - rows.start) * self.subject.columns()) as usize];
        self.contents.read(rows, &mut weights)?;
        Ok(weights)
    }
}

/// The tensor that makes the logits.
pub(crate) fn head_of(tensors: &[Tensor]) -> &'static str {
    let untied = tensors.iter().any(|tensor| tensor.subject.name == "output.weight");
    if untied { "output.weight" } else { "token_embd.weight" }
}
