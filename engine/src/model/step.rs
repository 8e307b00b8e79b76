//! What one step of a batch is made of: its rows, columns that belong together, and a layer's attention.

use super::matrix::NormWeights;
use crate::cuda::Vector;
use crate::kernels::STATE_COLUMNS;
use crate::ops::{Activation, Rope, sigmoid};
use std::ops::Range;

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

/// The rows of a batch cut where the sequence changes: a sequence's rows stand together.
pub(super) fn runs(rows: &[Row]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    rows.chunk_by(|a, b| a.sequence == b.sequence).map(move |run| {
        start += run.len();
        start - run.len()..start
    })
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

    /// No columns.
    pub(super) const NONE: Self = Self { at: 0, count: 1, width: 0, stride: 0 };

    /// A single piece.
    pub(super) fn one(at: usize, width: usize) -> Self {
        Self::pieces(at, 1, width)
    }

    /// The column behind pieces without gaps.
    pub(super) fn end(self) -> usize {
        self.at + self.count * self.width
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
    /// The new key by which the position is chosen; width 0 where there is none.
    pub index: Span,
    /// Columns of a head's result.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// How many positions back a row sees, itself included.
    pub window: Option<usize>,
    /// One logit per query head.
    pub sinks: Option<&'a Vector>,
}

/// One layer's choice of positions over a batch: row `t` looks at the `most` positions `s <= t` of the largest
/// `sum over heads of weight * max(0, query * key of s)`, the earlier ones where these are equal, and at all where there are
/// no more (DeepSeek-V3.2, section 2.1).
pub struct ChoiceStep<'a> {
    /// Which layer of the cache.
    pub layer: usize,
    /// The batch.
    pub rows: &'a [Row],
    /// Query heads in the joined rows.
    pub queries: Span,
    /// Column of the first head's weight.
    pub weights: usize,
    /// Positions that a row looks at.
    pub most: usize,
}

/// How a layer makes one entry of every `ratio` positions: per channel the mixture of their values by the softmax of their
/// gates, normed, and turned by the first position.
pub struct Pooling<'a> {
    /// Column of the new values in the joined rows; as many gates stand behind them.
    pub at: usize,
    /// Width of an entry.
    pub width: usize,
    /// Positions that become one.
    pub ratio: usize,
    /// Whether a position has a part for the entry after its own as well, in front of the other.
    pub overlaps: bool,
    /// Added to gates, `(ratio, columns)`.
    pub bias: &'a Vector,
    /// On an entry, before it is turned.
    pub norm: &'a NormWeights,
}

impl Pooling<'_> {
    /// Columns of a position's values, and of its gates.
    pub fn columns(&self) -> usize {
        pooling_columns(self.width, self.overlaps)
    }

    /// Numbers that are kept of positions which are not an entry yet, and of those before them.
    pub fn state_len(&self) -> usize {
        pooling_state_len(self.width, self.ratio, self.overlaps)
    }
}

/// Columns of a position's values, and of its gates.
pub(super) fn pooling_columns(width: usize, overlaps: bool) -> usize {
    if overlaps { 2 * width } else { width }
}

/// Numbers of a pooling's state.
pub(super) fn pooling_state_len(width: usize, ratio: usize, overlaps: bool) -> usize {
    let before = if overlaps { 2 * ratio * width } else { 0 };
    before + 2 * ratio * pooling_columns(width, overlaps)
}

/// What chooses among entries: keys of their own, pooled in the same way.
pub struct IndexStep<'a> {
    /// How its keys are made.
    pub pooling: Pooling<'a>,
    /// Queries in the joined rows.
    pub queries: Span,
    /// Column of a weight per query.
    pub weights: usize,
    /// Factor on the sums.
    pub factor: f32,
    /// Entries that a row sees at most.
    pub top_k: usize,
}

/// One layer's attention over a batch, to a window of keys that are values as well, and to entries behind it. A state holds
/// the window, then what both poolings keep.
pub struct EntriesStep<'a> {
    /// Which layer of the states.
    pub layer: usize,
    /// The batch.
    pub rows: &'a [Row],
    /// Query heads in the joined rows.
    pub queries: Span,
    /// Column of the new key.
    pub key: usize,
    /// How many positions back a row sees, itself included.
    pub window: usize,
    /// Factor on the products.
    pub scale: f32,
    /// One logit per query head.
    pub sinks: &'a Vector,
    /// What turned queries and keys, and turns entries: their last columns.
    pub rope: &'a Rope,
    /// How entries are made, where there are any.
    pub pooling: Option<Pooling<'a>>,
    /// What chooses among them; all are seen without it.
    pub index: Option<IndexStep<'a>>,
}

/// What a factor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// The number itself.
    Itself,
    /// Its sigmoid.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
}

impl Factor {
    /// The factor.
    #[inline(always)]
    pub fn of(self, x: f32) -> f32 {
        match self {
            Self::Itself => x,
            Self::Sigmoid => sigmoid(x),
            Self::Silu => Activation::Silu.apply(x),
        }
    }
}

/// One layer's convolution over a batch: `y[t] = f(bias + sum over j of weights[j] * x[t - taps + 1 + j])` per channel, the
/// state holding the last `taps - 1` inputs, the oldest first, zeros before the beginning.
pub struct ConvStep<'a> {
    /// Which layer of the states.
    pub layer: usize,
    /// The batch.
    pub rows: &'a [Row],
    /// Column of the first channel.
    pub at: usize,
    /// Channels.
    pub channels: usize,
    /// `(taps, channels)`.
    pub weights: &'a Vector,
    /// `(channels)`.
    pub bias: Option<&'a Vector>,
    /// What `f` is.
    pub activation: Option<Activation>,
}

impl ConvStep<'_> {
    /// Inputs that a sum takes.
    pub fn taps(&self) -> usize {
        self.weights.len() / self.channels
    }

    /// Numbers of the state.
    pub fn state_len(&self) -> usize {
        (self.taps() - 1) * self.channels
    }
}

/// How a recurrence's state takes a value in.
#[derive(Clone, Copy)]
pub enum Update<'a> {
    /// What the state does not say already, as far as the strength goes: `d = sigmoid(x) * (v - S'k)` (gated delta net,
    /// Yang et al. 2024).
    Delta {
        /// Column of the first head's `x`.
        strengths: usize,
    },
    /// All of it, for as long as the step lasts: `d = step * v`; the output gets `skip * v` besides (Mamba-2, Dao & Gu
    /// 2024).
    Whole {
        /// One factor per head.
        skip: &'a Vector,
    },
}

/// Which key and query head a value head goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeads {
    /// Neighbours share one.
    Neighbours,
    /// Every so manieth has the same: Qwen 3.5's files have value heads in this order.
    Turns,
}

/// One layer's recurrence over a batch. Each value head has a state `S` of `(key, value)` numbers and, per row, a step
/// `softplus(x + step_bias)`:
/// `S = exp(rate * step) * S + k d'`, and the output is `S'q`, with `d` as [`Update`] says.
pub struct ScanStep<'a> {
    /// Which layer of the states.
    pub layer: usize,
    /// The batch.
    pub rows: &'a [Row],
    /// Numbers of the layer's state before those of this.
    pub state_at: usize,
    /// Queries in `x`.
    pub queries: Span,
    /// Keys in `x`, as many and as wide.
    pub keys: Span,
    /// Values in `x`, their heads a multiple of the keys'.
    pub values: Span,
    /// Which go together.
    pub key_heads: KeyHeads,
    /// Column of the first head's step.
    pub steps: usize,
    /// One per value head.
    pub step_bias: &'a Vector,
    /// One per value head, below 0.
    pub rate: &'a Vector,
    /// How values come in.
    pub update: Update<'a>,
}

impl ScanStep<'_> {
    /// The key head of a value head.
    pub fn key_head(&self, head: usize) -> usize {
        match self.key_heads {
            KeyHeads::Neighbours => head / (self.values.count / self.keys.count),
            KeyHeads::Turns => head % self.keys.count,
        }
    }

    /// Numbers of a head's state: values stand in whole groups of `STATE_COLUMNS`, one group after the other.
    pub fn head_len(&self) -> usize {
        scan_state_len(1, self.keys.width, self.values.width)
    }
}

/// Numbers of a recurrence's state.
pub(super) fn scan_state_len(heads: usize, key_length: usize, value_length: usize) -> usize {
    heads * key_length * value_length.next_multiple_of(STATE_COLUMNS)
}
