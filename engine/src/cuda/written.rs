//! Launches that were written down, and what they read and write.

use super::arguments::{Argument, ChoicesAt, MatrixAt, NormAt, Pieces, RouteBy, StepAt};
use super::device::Function;

/// Buffers of [`What::Other`]; the others are 0. No list, for it is made of every launch, replayed ones too.
const MOST_READ: usize = 5;
const MOST_WRITTEN: usize = 3;

/// A launch that was written down.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) kernel: Function,
    pub(super) grid: (usize, usize),
    pub(super) shared: usize,
    pub(super) arguments: Vec<Argument>,
    pub(super) what: What,
}

/// What a launch computes, as far as it is joined with others; buffers by their addresses.
#[derive(Clone)]
pub(super) enum What {
    Norm {
        norm: NormAt,
        x: u64,
        out: u64,
    },
    NormSpan {
        norm: NormAt,
        x: u64,
        span: Pieces,
    },
    Rope {
        angles: u64,
        dims: usize,
        is_neox: bool,
        x: u64,
        span: Pieces,
    },
    Store {
        qkv: u64,
        width: usize,
        rows: usize,
        keys: Pieces,
        values: Pieces,
        step: StepAt,
        layer: usize,
    },
    Quantize {
        x: u64,
        codes: u64,
    },
    Clear {
        x: u64,
    },
    Product(Product),
    ExpertProduct(ExpertProduct),
    Activate {
        gate: u64,
        up: u64,
        kind: i32,
        choices: Option<u64>,
    },
    Route {
        logits: u64,
        bias: u64,
        by: RouteBy,
        to: ChoicesAt,
    },
    Combine {
        added: u64,
        slots: u64,
        choices: ChoicesAt,
    },
    Add {
        x: u64,
        added: u64,
        scale: f32,
    },
    /// What only writes parts of a buffer counts as reading it.
    Other {
        reads: [u64; MOST_READ],
        writes: [u64; MOST_WRITTEN],
    },
}

#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) matrix: MatrixAt,
    pub(super) bias: u64,
    pub(super) x: u64,
    pub(super) codes: u64,
    pub(super) rows: usize,
    pub(super) out: u64,
    pub(super) out_width: usize,
    pub(super) at: usize,
}

impl Product {
    pub(super) fn fills_out(&self) -> bool {
        self.at == 0 && self.matrix.rows == self.out_width
    }
}

#[derive(Clone, Copy)]
pub(super) struct ExpertProduct {
    pub(super) matrix: MatrixAt,
    pub(super) which: usize, // 0 gate, 1 up, 2 down
    pub(super) bias: u64,
    pub(super) choices: ChoicesAt,
    pub(super) addresses: u64,
    pub(super) x: u64,
    pub(super) codes: u64,
    pub(super) out: u64,
}

impl What {
    /// What is never joined.
    pub(super) fn other(reads: &[u64], writes: &[u64]) -> Self {
        let (mut all_read, mut all_written) = ([0; MOST_READ], [0; MOST_WRITTEN]);
        all_read[..reads.len()].copy_from_slice(reads);
        all_written[..writes.len()].copy_from_slice(writes);
        Self::Other { reads: all_read, writes: all_written }
    }

    /// Whether it reads a buffer.
    pub(super) fn reads(&self, buffer: u64) -> bool {
        match self {
            Self::Norm { x, .. }
            | Self::NormSpan { x, .. }
            | Self::Rope { x, .. }
            | Self::Quantize { x, .. } => *x == buffer,
            Self::Store { qkv, .. } => *qkv == buffer,
            Self::Clear { .. } => false,
            Self::Product(Product { x, codes, .. }) | Self::ExpertProduct(ExpertProduct { x, codes, .. }) => {
                // Of codes, the values are not read.
                buffer == if *codes == 0 { *x } else { *codes }
            }
            Self::Activate { gate, up, .. } => [*gate, *up].contains(&buffer),
            Self::Route { logits, .. } => *logits == buffer,
            Self::Combine { added, slots, .. } => [*added, *slots].contains(&buffer),
            Self::Add { x, added, .. } => [*x, *added].contains(&buffer),
            Self::Other { reads, .. } => reads.contains(&buffer),
        }
    }

    /// Whether it changes a buffer.
    pub(super) fn writes(&self, buffer: u64) -> bool {
        match self {
            Self::NormSpan { x, .. } | Self::Rope { x, .. } | Self::Clear { x } | Self::Add { x, .. } => {
                *x == buffer
            }
            Self::Norm { out, .. } => *out == buffer,
            Self::Store { .. } => false,
            Self::Quantize { codes, .. } => *codes == buffer,
            Self::Product(Product { out, .. }) | Self::ExpertProduct(ExpertProduct { out, .. }) => {
                *out == buffer
            }
            Self::Activate { up, .. } => *up == buffer,
            Self::Route { to, .. } => [to.choices, to.scores].contains(&buffer),
            Self::Combine { added, .. } => *added == buffer,
            Self::Other { writes, .. } => writes.contains(&buffer),
        }
    }

    /// Whether nothing is left of what was in a buffer that anybody reads: of experts' products, slots without one are
    /// passed over by all that follow.
    pub(super) fn replaces(&self, buffer: u64) -> bool {
        let is_whole = match self {
            Self::Norm { .. } | Self::Clear { .. } | Self::Quantize { .. } | Self::ExpertProduct(_) => true,
            Self::Product(product) => product.fills_out(),
            Self::Other { .. } => !self.reads(buffer),
            _ => false,
        };
        is_whole && self.writes(buffer)
    }

    /// The buffer whose readers are all that it is there for.
    pub(super) fn result(&self) -> Option<u64> {
        match self {
            Self::Norm { out, .. } => Some(*out),
            Self::Quantize { codes, .. } => Some(*codes),
            Self::Clear { x } => Some(*x),
            _ => None,
        }
    }
}
