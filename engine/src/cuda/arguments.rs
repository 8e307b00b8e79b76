//! What launches are told: places on the device, shapes, and numbers that kernels read instead of enums.

use crate::quant::Format;

/// An argument of a kernel, as its bytes.
#[derive(Clone, Copy)]
pub struct Argument(pub(super) [u8; 8]);

impl From<u64> for Argument {
    fn from(address: u64) -> Self {
        Self(address.to_ne_bytes())
    }
}

impl From<usize> for Argument {
    /// A whole number of 32 bits.
    fn from(number: usize) -> Self {
        (number as i32).into()
    }
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&number.to_ne_bytes());
        Self(bytes)
    }
}

impl From<bool> for Argument {
    fn from(flag: bool) -> Self {
        i32::from(flag).into()
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Self {
        i32::from_ne_bytes(number.to_ne_bytes()).into()
    }
}

/// Columns that belong together.
#[derive(Clone, Copy, PartialEq)]
pub struct Pieces {
    /// First column.
    pub at: usize,
    /// Pieces.
    pub count: usize,
    /// Columns of a piece.
    pub width: usize,
    /// From one piece to the next.
    pub stride: usize,
}

/// A norm's weights on the device.
#[derive(Clone, Copy, PartialEq)]
pub struct NormAt {
    /// `(width)`.
    pub weight: u64,
    /// `(width)`, or 0.
    pub bias: u64,
    /// Added to the mean square.
    pub epsilon: f32,
    /// Whether the mean is taken away first.
    pub is_layer_norm: bool,
}

/// A matrix on the device.
#[derive(Clone, Copy)]
pub struct MatrixAt {
    /// How it is stored.
    pub format: &'static Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Whether its rows lie in panels.
    pub is_panels: bool,
    /// Where it is; 0 for an expert's, which addresses tell.
    pub bytes: u64,
}

/// Experts and their weights for each row.
#[derive(Clone, Copy)]
pub struct ChoicesAt {
    /// `(rows, used)`, -1 for what is left out.
    pub choices: u64,
    /// `(rows, used)`.
    pub scores: u64,
    /// Rows.
    pub rows: usize,
    /// Active experts per row.
    pub used: usize,
    /// Where slots are sorted by experts: the list of tiles, the slots, and how many tiles there are at most.
    pub tiles: Option<(u64, u64, usize)>,
}

/// How router logits become choices, in the kernel's numbers.
#[derive(Clone, Copy)]
pub struct RouteBy {
    /// All experts.
    pub experts: usize,
    /// 0 softmax, 1 sigmoid, 2 softmax of the chosen.
    pub gating: i32,
    /// All groups, 0 for none.
    pub groups: usize,
    /// Groups chosen per row.
    pub groups_used: usize,
    /// Largest scores that a group counts for.
    pub groups_counted: usize,
    /// Whether weights are divided by their sum.
    pub normalise: bool,
    /// Factor on weights.
    pub scale: f32,
    /// Share of a row's weight below which a choice is left out.
    pub threshold: f32,
    /// A factor on each expert's weight, or 0.
    pub expert_scale: u64,
}

/// The rows of a step and the sequences that they belong to.
#[derive(Clone, Copy)]
pub struct StepAt {
    /// `(rows)` each.
    pub positions: u64,
    /// Numbers of sequences.
    pub sequences: u64,
    /// Runs of rows of one sequence, each with its first row and how many it has.
    pub runs: u64,
    /// How many runs.
    pub run_count: usize,
    /// Blocks that a head of attention has: one, or as many as go through [`CHUNK`](super::CHUNK) positions each.
    pub chunks: usize,
    /// Addresses of the sequences' page tables.
    pub tables: u64,
    /// Pages per side and layer in a table.
    pub max_pages: usize,
    /// Pages in a table, behind which it tells of states.
    pub behind_pages: usize,
    /// 0 F32, 1 F16, 2 Q8_0, 3 BF16.
    pub cache_format: i32,
}

/// One layer's attention.
#[derive(Clone, Copy)]
pub struct AttentionBy {
    /// Query heads in their buffer.
    pub queries: Pieces,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Columns of a head's result.
    pub value_width: usize,
    /// Factor on the products.
    pub scale: f32,
    /// Positions back that a row sees, itself included; 0 for all.
    pub window: usize,
    /// One logit per query head, or 0.
    pub sinks: u64,
    /// Which layer of the pages.
    pub layer: usize,
    /// Whether the keys' first columns are the values.
    pub values_in_keys: bool,
}
