//! What one task of attention has to do: data, and where its queries and their results are.

use super::super::job::Places;
use crate::simd::LANES;
use std::sync::Arc;

/// Queries that take each step together: what one of them waits for is done for another.
pub(super) const BLOCK: usize = 8;

/// Positions per tile: keys of width 128 then fill half of a first-level cache.
pub(super) const TILE: usize = 32;

/// Fewer queries do not make up for the turning of keys and the pairing of values.
pub(super) const FEW: usize = 16;

/// Computes every query of a task.
///
/// # Safety
/// No other task may have the same rows and heads of the output.
pub(crate) type AttentionKernel = unsafe fn(&AttentionTask<'_>);

/// Rows of all heads in pages.
#[derive(Clone, Copy)]
pub(crate) struct CachedPages<'a> {
    /// The pages.
    pub(crate) pages: &'a [Arc<Vec<u8>>],
    /// Where the rows begin in each.
    pub(crate) at: usize,
}

impl<'a> CachedPages<'a> {
    /// A page's rows and what follows them.
    pub(crate) fn page(&self, number: usize) -> &'a [u8] {
        &self.pages[number][self.at..]
    }
}

/// What the queries of a sequence look at, and how.
pub(crate) struct Attended<'a> {
    /// Pages of keys, each `(head, position in page, key_length)` in the cache's format.
    pub(crate) keys: CachedPages<'a>,
    /// Pages of values, likewise; `None` where a key's first columns are the value.
    pub(crate) values: Option<CachedPages<'a>>,
    /// Positions per page, a multiple of 32.
    pub(crate) page_len: usize,
    /// Width of a key.
    pub(crate) key_length: usize,
    /// Width of a value.
    pub(crate) value_length: usize,
    /// Factor on the products.
    pub(crate) scale: f32,
    /// How many positions a row sees back, itself included; `None` for all.
    pub(crate) window: Option<usize>,
    /// One logit per query head that takes probability and gives nothing (gpt-oss).
    pub(crate) sinks: Option<&'a [f32]>,
    /// The queries.
    pub(crate) queries: Queries<'a>,
}

/// One key head over neighbouring rows of one sequence. The places of its rows and heads are its own.
pub(crate) struct AttentionTask<'a> {
    pub(super) of: Attended<'a>,
    /// Which key head.
    pub(super) head: usize,
    /// First row of the batch.
    pub(super) row: usize,
    /// Rows; the first stands at `position`, the others follow.
    pub(super) rows: usize,
    /// Position of the first row.
    pub(super) position: usize,
    /// Head after head.
    pub(super) output: Places<'a>,
}

/// Query heads in row-major rows.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a> {
    /// All rows.
    pub(crate) values: &'a [f32],
    /// Width of a row.
    pub(crate) width: usize,
    /// Column of the first head that shares the key head.
    pub(crate) at: usize,
    /// Number of the first head that shares the key head.
    pub(crate) first: usize,
    /// Heads that share it.
    pub(crate) count: usize,
    /// Columns from one head to the next.
    pub(crate) stride: usize,
}

impl<'a> AttentionTask<'a> {
    /// Query `i`: row after row, in each the heads that share the key head.
    #[inline(always)]
    pub(super) fn query(&self, i: usize) -> &'a [f32] {
        let (row, head) = (self.row + i / self.of.queries.count, i % self.of.queries.count);
        let start = row * self.of.queries.width + self.of.queries.at + head * self.of.queries.stride;
        &self.of.queries.values[start..start + self.of.key_length]
    }

    pub(super) fn query_count(&self) -> usize {
        self.rows * self.of.queries.count
    }

    /// Columns of a query and of a key.
    #[inline(always)]
    pub(super) fn key_columns(&self) -> usize {
        self.of.key_length.div_ceil(LANES)
    }

    /// Columns of a value and of a result.
    #[inline(always)]
    pub(super) fn value_columns(&self) -> usize {
        self.of.value_length.div_ceil(LANES)
    }

    #[inline(always)]
    pub(super) fn position_of(&self, i: usize) -> usize {
        self.position + i / self.of.queries.count
    }

    /// First position that a row at `position` sees.
    #[inline(always)]
    pub(super) fn first_seen(&self, position: usize) -> usize {
        self.of.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    pub(super) fn sink(&self, i: usize) -> Option<f32> {
        self.of.sinks.map(|sinks| sinks[self.of.queries.first + i % self.of.queries.count])
    }
}

/// Heads of an attention.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    /// Of keys.
    pub(crate) keys: usize,
    /// Query heads that share a key head.
    pub(crate) sharing: usize,
    /// Width of a value, and of a query head's result.
    pub(crate) value_length: usize,
}

/// Neighbouring rows of a batch that belong to one sequence and stand at consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowBlock {
    /// First row of the batch.
    pub(crate) row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Position of the first.
    pub(crate) position: usize,
    /// Whose cache they see.
    pub(crate) sequence: usize,
}
