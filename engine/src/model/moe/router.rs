//! What chooses experts, as data: a router with its tensors, and what a layer before it has to know to guess its choice.

use super::Shape;
use crate::cuda::Vector;
use crate::model::matrix::{Linear, NormWeights};

/// The experts of every token, whatever its scores.
pub struct Table {
    /// Of a token.
    pub(in crate::model) width: usize,
    /// `(vocab_size, width)`.
    pub(in crate::model) experts: Vec<u32>,
}

impl Table {
    /// The experts of a token.
    pub(in crate::model) fn of(&self, token: u32) -> &[u32] {
        &self.experts[token as usize * self.width..][..self.width]
    }
}

/// What chooses and weighs experts.
pub struct Router {
    /// On the residual stream, where it does not read the half's input.
    pub(in crate::model) norm: Option<NormWeights>,
    pub(in crate::model) linear: Linear, // (expert_count, embedding_length)
    /// Added to scores for the choice only, `(expert_count)`.
    pub choice_bias: Option<Vector>,
    /// Factor on each expert's weight, `(expert_count)`.
    pub expert_scale: Option<Vector>,
    /// What names the experts in the place of the scores.
    pub table: Option<Table>,
}

/// What chooses a layer's experts, for whoever wants to know before its turn.
#[derive(Clone, Copy)]
pub(in crate::model) struct Choosing<'a> {
    pub(in crate::model) shape: &'a Shape,
    pub(in crate::model) router: &'a Router,
    pub(in crate::model) norm: &'a NormWeights, // on the residual stream, before the router
}
