//! What one step of a batch is made of: its rows, columns that belong together, and a layer's attention.

use crate::cuda::Vector;

/// One token of one conversation in a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Which of the sequences.
    pub sequence: usize,
    /// Its place in the conversation.
    pub position: usize,
    /// Its id, below the vocabulary's size.
    pub token: u32,
    /// What is asked about the token after it.
    pub wants: Wants,
}

/// What a row is asked about the token after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wants {
    /// Nothing: other rows see it.
    Nothing,
    /// Logits of all tokens.
    Logits,
    /// The best tokens, where the backend finds them by itself and all rows of the step that want anything want them;
    /// logits elsewhere.
    Best {
        /// Divides the scores in [`Best::total`].
        temperature: f32,
    },
}

impl Wants {
    /// Whether logits are computed.
    pub fn logits(self) -> bool {
        self != Self::Nothing
    }

    /// Logits, or nothing.
    pub fn logits_if(holds: bool) -> Self {
        if holds { Self::Logits } else { Self::Nothing }
    }
}

/// The best tokens of a row: all those with scores from a bound on.
#[derive(Clone, Copy, Debug)]
pub struct Best<'a> {
    /// Ids, rising.
    pub tokens: &'a [u32],
    /// Their logits; NaN counts as -infinity, which is left out, and +infinity as the largest number.
    pub logits: &'a [f32],
    /// All other tokens have lower ones.
    pub bound: f32,
    /// The sum of `exp((logit - highest) / temperature)` over all tokens.
    pub total: f32,
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
