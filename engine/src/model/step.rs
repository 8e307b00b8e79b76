//! What one step of a batch is made of: its rows, columns that belong together, and a layer's attention.

use crate::cuda::Vector;

/// One token of one conversation in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which of the sequences.
    pub sequence: usize,
    /// Its place in the conversation.
    pub position: usize,
    /// Its id, below the vocabulary's size.
    pub token: u32,
    /// Whether logits are computed for it.
    pub wants_logits: bool,
}

/// Columns of a row that belong together: `count` pieces of `width`, `stride` apart, the first at `at`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First column.
    pub at: usize,
    /// Pieces.
    pub count: usize,
    /// Columns of a piece.
    pub width: usize,
    /// From one piece to the next.
    pub stride: usize,
}

impl Span {
    /// Pieces without gaps.
    pub(super) fn pieces(at: usize, count: usize, width: usize) -> Self {
        Self { at, count, width, stride: width }
    }

    /// A single piece.
    pub(super) fn one(at: usize, width: usize) -> Self {
        Self::pieces(at, 1, width)
    }

    /// All pieces as one.
    pub(super) fn as_one(self) -> Self {
        Self::one(self.at, self.count * self.width)
    }
}

/// One layer's attention over a batch.
pub struct AttentionStep<'a> {
    /// Which layer of the cache.
    pub layer: usize,
    /// The batch.
    pub rows: &'a [Row],
    /// Query heads in their buffer.
    pub queries: Span,
    /// New key heads in the joined rows.
    pub keys: Span,
    /// New value heads; width 0 where the keys' first columns are the values.
    pub values: Span,
    /// Columns of a head's result.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// How many positions back a row sees, itself included.
    pub window: Option<usize>,
    /// One logit per query head.
    pub sinks: Option<&'a Vector>,
}
