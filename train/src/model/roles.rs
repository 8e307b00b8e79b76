//! What the parameters of a model are for, and the tensors that they are exported as. Their shapes follow from a config
//! (`parameters.rs`).

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a parameter is for. Shapes: V vocabulary, d embedding, E experts, F hidden, b branches (2 with a gate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// `(V, d)`, also the head of tied models.
    TokenEmbedding,
    /// `(context, d)`.
    PositionEmbedding,
    /// `(d)`.
    AttentionNorm,
    /// `(d)`.
    AttentionNormBias,
    /// `((H + 2K) * D, d)`.
    Qkv,
    /// `((H + 2K) * D)`.
    QkvBias,
    /// `(D)`, or `(H * D)` over all heads.
    QueryNorm,
    /// `(D)`, or `(K * D)` over all heads.
    KeyNorm,
    /// `(d, H * D)`.
    AttentionOutput,
    /// `(d)`.
    AttentionOutputBias,
    /// `(d)`.
    FfnNorm,
    /// `(d)`.
    FfnNormBias,
    /// `(b * F, d)`, gates first.
    Up,
    /// `(b * F)`.
    UpBias,
    /// `(d, F)`.
    Down,
    /// `(d)`.
    DownBias,
    /// `(E, d)`.
    Router,
    /// `(E, d)`.
    RouterNoise,
    /// `(E, b * F, d)`, gates first.
    ExpertsUp,
    /// `(E, b * F)`.
    ExpertsUpBias,
    /// `(E, d, F)`.
    ExpertsDown,
    /// `(E, d)`.
    ExpertsDownBias,
    /// `(b * F, d)`, gates first.
    SharedUp,
    /// `(d, F)`.
    SharedDown,
    /// `(d)`.
    OutputNorm,
    /// `(d)`.
    OutputNormBias,
    /// `(V, d)`.
    Output,
    /// `(r, in)`, or `(E, r, in)` of experts: the first matrix of an adapter.
    AdapterA,
    /// `(out, r)`, or `(E, out, r)` of experts: the second.
    AdapterB,
    /// `(out)`: the lengths of rows that an adapter of DoRA learns.
    AdapterMagnitude,
}

impl Role {
    /// Whether this is the weight of a norm, which begins as 1.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Self::AttentionNorm | Self::FfnNorm | Self::OutputNorm | Self::QueryNorm | Self::KeyNorm
        )
    }

    /// Whether this is added and not multiplied.
    pub fn is_bias(self) -> bool {
        matches!(
            self,
            Self::AttentionNormBias
                | Self::QkvBias
                | Self::AttentionOutputBias
                | Self::FfnNormBias
                | Self::UpBias
                | Self::DownBias
                | Self::ExpertsUpBias
                | Self::ExpertsDownBias
                | Self::OutputNormBias
        )
    }

    /// Whether this chooses experts.
    pub fn is_router(self) -> bool {
        matches!(self, Self::Router | Self::RouterNoise)
    }

    /// Whether this is of an adapter and not of the model itself.
    pub fn is_adapter(self) -> bool {
        matches!(self, Self::AdapterA | Self::AdapterB | Self::AdapterMagnitude)
    }

    /// Whether this is one of the large matrices, which may stay in 16 bits where they are not trained.
    pub(super) fn is_matrix(self) -> bool {
        let is_small = self.is_norm() || self.is_bias() || self.is_router() || self.is_adapter();
        !is_small && self != Self::PositionEmbedding
    }

    pub(super) fn is_embedding(self) -> bool {
        matches!(self, Self::TokenEmbedding | Self::PositionEmbedding)
    }

    pub(super) fn is_norm_bias(self) -> bool {
        matches!(self, Self::AttentionNormBias | Self::FfnNormBias | Self::OutputNormBias)
    }
}

/// A tensor of the architecture's own code, as a part of a parameter.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its name in a checkpoint.
    pub name: String,
    /// Begin and length along each axis of the parameter.
    pub ranges: Vec<(usize, usize)>,
    /// The axes of the parameter in the order that they have outside.
    pub order: Vec<usize>,
    /// Its shape outside.
    pub shape: Vec<usize>,
}

impl Piece {
    /// The whole of a parameter of `shape`.
    pub fn whole(name: impl Into<String>, shape: &[usize]) -> Self {
        let ranges = shape.iter().map(|&length| (0, length)).collect();
        Self { name: name.into(), ranges, order: (0..shape.len()).collect(), shape: shape.to_vec() }
    }

    /// Only `length` from `start` along `axis`.
    pub fn part(mut self, axis: usize, start: usize, length: usize) -> Self {
        self.ranges[axis] = (start, length);
        self.shape[axis] = length;
        self
    }

    /// Only expert `index`, without the axis of experts.
    pub fn expert(mut self, index: usize) -> Self {
        self.ranges[0] = (index, 1);
        self.shape.remove(0);
        self
    }

    /// With the last two axes exchanged outside.
    pub fn transposed(mut self) -> Self {
        let (last, outside) = (self.order.len() - 1, self.shape.len() - 1);
        self.order.swap(last - 1, last);
        self.shape.swap(outside - 1, outside);
        self
    }

    /// With the axes in another order outside.
    pub fn ordered(mut self, order: &[usize]) -> Self {
        self.shape = order.iter().map(|&axis| self.ranges[axis].1).collect();
        self.order = order.to_vec();
        self
    }

    /// With another shape of the same numbers outside.
    pub fn shaped(mut self, shape: &[usize]) -> Self {
        self.shape = shape.to_vec();
        self
    }

    /// Calls `visit` with the place outside and the place inside a parameter of `shape` for each number, in the order
    /// of the outside.
    fn walk(&self, shape: &[usize], mut visit: impl FnMut(usize, usize)) {
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let ranges: Vec<(usize, usize)> = self.order.iter().map(|&axis| self.ranges[axis]).collect();
        let strides: Vec<usize> = self.order.iter().map(|&axis| stride(axis)).collect();
        let last = shape.len() - 1;
        let rows: usize = ranges[..last].iter().map(|range| range.1).product();
        let (start, width) = ranges[last];
        for row in 0..rows {
            let (mut rest, mut offset) = (row, 0);
            for axis in (0..last).rev() {
                offset += (ranges[axis].0 + rest % ranges[axis].1) * strides[axis];
                rest /= ranges[axis].1;
            }
            for i in 0..width {
                visit(row * width + i, offset + (start + i) * strides[last]);
            }
        }
    }

    /// This piece of a parameter with `values` and `shape`.
    pub fn take<T: Copy>(&self, values: &[T], shape: &[usize]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.shape.iter().product());
        self.walk(shape, |_, inside| out.push(values[inside]));
        out
    }

    /// Writes this piece into a parameter.
    ///
    /// # Errors
    /// It has another shape outside than expected.
    pub fn put(&self, piece: (&[f32], &[usize]), values: &mut [f32], shape: &[usize]) -> Result<()> {
        if piece.1 != self.shape {
            let message =
                format!("tensor {}: expected shape {:?}, found {:?}", self.name, self.shape, piece.1);
            return Err(Error::request(message));
        }
        self.walk(shape, |outside, inside| values[inside] = piece.0[outside]);
        Ok(())
    }
}
