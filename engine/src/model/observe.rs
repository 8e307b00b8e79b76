//! Looking inside a forward: the only way to see activations and routing from outside.
//!
//! Importance, calibration, router agreement and traces implement [`Observe`]; the forward is compiled for each,
//! so [`Nothing`] costs nothing.

use super::moe::Routing;

/// Where an input was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site<'a> {
    /// GGUF's tensor name without `.weight`.
    pub tensor: &'a str,
    /// Which expert, for stacked tensors.
    pub expert: Option<u32>,
}

/// Watches a forward. Every method does nothing unless it is overridden.
pub trait Observe {
    /// Whether any method does something; the forward then makes host copies of what they see.
    const ACTIVE: bool = true;

    /// Input rows `(rows, width)` of a matrix.
    fn matmul_input(&mut self, _site: Site<'_>, _rows: &[f32], _width: usize) {}

    /// A router's scores of a batch's rows `(rows, expert_count)`, before anything is chosen by them.
    fn scored(&mut self, _layer: usize, _scores: &[f32], _expert_count: usize) {}

    /// Which experts the rows of a batch chose, with weights.
    fn routed(&mut self, _layer: usize, _routing: &Routing) {}

    /// The residual stream `(rows, embedding_length)` before a layer, and behind the last one.
    fn hidden(&mut self, _layer: usize, _rows: &[f32], _width: usize) {}
}

/// Watches nothing.
pub struct Nothing;

impl Observe for Nothing {
    const ACTIVE: bool = false;
}
