//! A tensor as a typed part: a matrix, the same with its bias, the weights of a norm. Which of them a model has is
//! `weights.rs`.

use crate::cuda::{Memory, Vector};
use crate::gguf::Bytes;
use crate::kernels::{Layout, LowRank, MatrixRef};
use crate::quant::Format;
use std::sync::{Arc, OnceLock};

/// A bound matrix: `rows` outputs of `cols` inputs.
#[derive(Clone)]
pub struct Matrix {
    /// How it is stored.
    pub format: &'static Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The blocks, as the file has them.
    pub(super) bytes: Bytes,
    /// As the kernels want them, see `pack.rs`.
    pub(super) packed: OnceLock<(Layout, Bytes)>,
    /// On the device, where there is one.
    pub(super) home: OnceLock<Arc<Memory>>,
}

impl Matrix {
    /// The matrix as the file has it.
    pub(super) fn in_file(&self) -> MatrixRef<'_> {
        let Self { format, rows, cols, .. } = *self;
        MatrixRef { format, rows, cols, layout: Layout::Rows, bytes: &self.bytes }
    }

    /// The matrix for kernels.
    pub(crate) fn view(&self) -> MatrixRef<'_> {
        let Self { format, rows, cols, .. } = *self;
        let (layout, bytes) =
            self.packed.get().map_or((Layout::Rows, &self.bytes), |(layout, bytes)| (*layout, bytes));
        MatrixRef { format, rows, cols, layout, bytes }
    }
}

/// A matrix with its bias.
#[derive(Clone)]
pub struct Linear {
    /// GGUF's tensor name without `.weight`, for observers.
    pub name: String,
    /// The weights.
    pub matrix: Matrix,
    /// One per output.
    pub bias: Option<Vector>,
    /// What adapters add.
    pub(crate) low_rank: Option<Box<LowRank>>,
}

/// A normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Root mean square.
    Rms {
        /// Added to the mean square.
        epsilon: f32,
    },
    /// Mean and variance, with bias where the file has one.
    Layer {
        /// Added to the variance.
        epsilon: f32,
    },
}

/// Weights of a norm.
#[derive(Clone)]
pub struct NormWeights {
    /// Which norm.
    pub kind: Norm,
    /// `(width)`.
    pub weight: Vector,
    /// `(width)`, layer norms only.
    pub bias: Option<Vector>,
}
