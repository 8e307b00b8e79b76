//! Attention over the pages of a KV cache, one task per (rows, key head).
//!
//! Keys and values are read in tiles of [`TILE`] positions, laid out once for all query heads and rows of the task; the
//! softmax runs online (running maximum and sum, Milakov & Gimelshein 2018). Products are those of f32 (`exact.rs`); where
//! the machine has the instruction and a cache is no more than half as long, many queries take values in BF16
//! (`pairs.rs`). What is between products is the same (`tile.rs`). Tiles start at fixed positions, so a row's result does
//! not depend on which other rows are computed with it, but for that choice.

mod cached;
mod chosen;
mod exact;
mod pairs;
mod task;
#[cfg(test)]
mod tests;
mod tile;

use super::cache::prefetch;
use super::job::Output;
use crate::quant::{Block, Float, Format, Visit, visit};
use crate::simd::{Isa, LANES, Lanes, Work};
use crate::threads::Team;
use cached::{Blocks, Cached, Columns, Floats, Rows};
pub(crate) use chosen::{Choice, attention_to};
use exact::Exact;
use pairs::Pairs;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
pub(crate) use task::{Attended, AttentionKernel, CachedPages, Heads, Queries, RowBlock};
use task::{AttentionTask, BLOCK, FEW, TILE};
use tile::{Numbers, Sight, weigh};

/// Attention of all blocks and key heads: `attended` describes a block's first key head, the others follow.
///
/// # Panics
/// When blocks overlap, or heads are others than those described.
pub(crate) fn attention<'a>(
    team: &Team,
    kernel: AttentionKernel,
    blocks: &[RowBlock],
    heads: Heads,
    attended: impl Fn(&RowBlock) -> Attended<'a> + Sync,
    output: Output<'a>,
) {
    let Heads { keys, sharing, value_length } = heads;
    assert!(blocks.windows(2).all(|pair| pair[0].row + pair[0].rows <= pair[1].row));
    let output = output.places(keys * sharing * value_length);
    team.run(blocks.len() * keys, |i| {
        let (block, head) = (&blocks[i / keys], i % keys);
        let mut of = attended(block);
        assert_eq!((of.queries.count, of.value_length), (sharing, value_length));
        of.queries.at += head * sharing * of.queries.stride;
        of.queries.first = head * sharing;
        let RowBlock { row, rows, position, .. } = *block;
        // SAFETY: blocks do not overlap, each key head has columns of its own, and the output came by value.
        unsafe { kernel(&AttentionTask { of, head, row, rows, position, output }) };
    });
}

/// Picks the attention over a cache format for an instruction set.
///
/// # Panics
/// When this machine lacks the instruction set.
pub(crate) fn select_attention(format: &Format, isa: Isa) -> AttentionKernel {
    assert!(isa.is_available(), "{isa} is not available");
    visit(format, Select(isa))
}

struct Select(Isa);

impl Select {
    fn kernel<C: Cached>(self) -> AttentionKernel {
        if C::IS_SHORT && self.0.has_pairs() {
            return |task| match task.query_count() {
                ..FEW => Isa::Avx512Vnni.run(Attend::<C, Exact>::new(task)),
                FEW.. => Isa::Avx512Vnni.run_with_pairs(Attend::<C, Pairs>::new(task)),
            };
        }
        match self.0 {
            Isa::Portable => |task| Isa::Portable.run(Attend::<C, Exact>::new(task)),
            Isa::Avx2 | Isa::AvxVnni => |task| Isa::Avx2.run(Attend::<C, Exact>::new(task)),
            Isa::Avx512Vnni | Isa::Amx => |task| Isa::Avx512Vnni.run(Attend::<C, Exact>::new(task)),
            Isa::NeonDot | Isa::NeonI8mm => |task| Isa::NeonDot.run(Attend::<C, Exact>::new(task)),
        }
    }
}

impl Visit for Select {
    type Output = AttentionKernel;
    fn blocks<B: Block>(self) -> AttentionKernel {
        self.kernel::<Blocks<B>>()
    }
    fn float<F: Float>(self) -> AttentionKernel {
        self.kernel::<Floats<F>>()
    }
}

/// What a task works on. Rows of queries and sums are `(row, head)`.
#[derive(Default)]
struct Buffers {
    /// The tile's.
    keys: Vec<Columns>,
    values: Vec<Columns>,
    queries: Vec<Columns>,
    /// Per query: the weighted sum of the values so far.
    sums: Vec<Columns>,
    /// Per query: the largest logit and the sum of all exponentials so far.
    running: Vec<(f32, f32)>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl Buffers {
    #[inline(always)]
    fn begin<N: Numbers>(&mut self, task: &AttentionTask<'_>) {
        let (key, value) = (task.key_columns(), task.value_columns());
        let queries = task.query_count();
        clear(&mut self.keys, TILE * key);
        let values = if keys_serve::<N>(task) { 0 } else { TILE / N::VALUES_PER_LANE * value };
        clear(&mut self.values, values);
        clear(&mut self.queries, queries * key);
        for (i, query) in self.queries.chunks_exact_mut(key).enumerate() {
            let scaled = task.query(i).iter().map(|value| value * task.of.scale);
            query.as_flattened_mut().iter_mut().zip(scaled).for_each(|(place, value)| *place = value);
        }
        clear(&mut self.sums, queries * value);
        self.running.clear();
        let sink = |i| task.sink(i).map_or((f32::NEG_INFINITY, 0.0), |sink| (sink, 1.0));
        self.running.extend((0..queries).map(sink));
    }

    #[inline(always)]
    fn load_tile<C: Cached, N: Numbers, L: Lanes>(
        &mut self,
        task: &AttentionTask<'_>,
        rows: &CachedRows<'_>,
    ) {
        N::keys::<C, L>(&rows.keys, &mut self.keys);
        if !keys_serve::<N>(task) {
            let values = rows.values.unwrap_or(Rows { width: task.of.value_length, ..rows.keys });
            N::values::<C, L>(&values, &mut self.values);
        }
    }
}

/// Whether the tile's keys are its values, too.
fn keys_serve<N: Numbers>(task: &AttentionTask<'_>) -> bool {
    N::KEYS_SERVE_AS_VALUES && task.of.values.is_none()
}

fn clear(buffer: &mut Vec<Columns>, len: usize) {
    buffer.clear();
    buffer.resize(len, [0.0; LANES]);
}

/// A tile's rows in the cache.
struct CachedRows<'a> {
    keys: Rows<'a>,
    /// `None` where they are a part of the keys.
    values: Option<Rows<'a>>,
}

impl<'a> CachedRows<'a> {
    /// Of the positions from `start` to `end`, at most a tile; none where there are none.
    #[inline(always)]
    fn new<C: Cached>(task: &AttentionTask<'a>, start: usize, end: usize) -> Self {
        let (page, at) = (start / task.of.page_len, task.head * task.of.page_len + start % task.of.page_len);
        let rows = |pages: CachedPages<'a>, width| {
            let row_bytes = C::bytes(width);
            let bytes = match end.saturating_sub(start).min(TILE) {
                0 => &[],
                rows => &pages.page(page)[at * row_bytes..][..rows * row_bytes],
            };
            Rows { bytes, row_bytes, width }
        };
        let values = task.of.values.map(|values| rows(values, task.of.value_length));
        Self { keys: rows(task.of.keys, task.of.key_length), values }
    }

    /// Asks for one of so many shares: all at once would wait for each other.
    #[inline(always)]
    fn ask_for(&self, share: usize, shares: usize) {
        for Rows { bytes, .. } in [Some(self.keys), self.values].into_iter().flatten() {
            let lines = bytes.len().div_ceil(64);
            for line in share * lines / shares..(share + 1) * lines / shares {
                prefetch(bytes[line * 64..].as_ptr());
            }
        }
    }
}

/// All queries of a task.
struct Attend<'t, 'a, C, N>(&'t AttentionTask<'a>, PhantomData<(C, N)>);

impl<'t, 'a, C, N> Attend<'t, 'a, C, N> {
    fn new(task: &'t AttentionTask<'a>) -> Self {
        Self(task, PhantomData)
    }
}

impl<C: Cached, N: Numbers> Work for Attend<'_, '_, C, N> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let task = self.0;
        // Taken out and put back: a closure would be compiled without the caller's instructions.
        let mut buffers = BUFFERS.take();
        buffers.begin::<N>(task);
        let end = task.position + task.rows;
        let mut start = task.first_seen(task.position) / TILE * TILE;
        let mut rows = CachedRows::new::<C>(task, start, end);
        while start < end {
            buffers.load_tile::<C, N, L>(task, &rows);
            rows = CachedRows::new::<C>(task, start + TILE, end);
            for first in (0..task.query_count()).step_by(BLOCK) {
                rows.ask_for(first / BLOCK, task.query_count().div_ceil(BLOCK));
                let queries = first..task.query_count().min(first + BLOCK);
                attend::<N, L>(task, queries, start, &mut buffers);
            }
            start += TILE;
        }
        for (i, sums) in buffers.sums.chunks_exact(task.value_columns()).enumerate() {
            let sum = buffers.running[i].1;
            // SAFETY: whoever runs a task says so of its rows and heads, and this one is at one place at a time.
            let place = unsafe { place(task, i) };
            place.iter_mut().zip(sums.as_flattened()).for_each(|(place, value)| *place = value / sum);
        }
        BUFFERS.set(buffers);
    }
}

/// The place of query `i`'s result.
///
/// # Safety
/// No other task may have the same rows and heads.
#[inline(always)]
unsafe fn place<'a>(task: &AttentionTask<'a>, i: usize) -> &'a mut [f32] {
    let queries = &task.of.queries;
    let (row, head) = (task.row + i / queries.count, queries.first + i % queries.count);
    let columns = head * task.of.value_length..(head + 1) * task.of.value_length;
    // SAFETY: the task's own row and head; `attention` made sure that a row has room for all heads.
    unsafe { task.output.slice(row as u32, columns) }
}

/// Adds one tile to the running softmax of some queries.
#[inline(always)]
fn attend<N: Numbers, L: Lanes>(
    task: &AttentionTask<'_>,
    queries: Range<usize>,
    start: usize,
    buffers: &mut Buffers,
) {
    let (key, value) = (task.key_columns(), task.value_columns());
    let mut sights = [Sight::default(); BLOCK];
    let sights = &mut sights[..queries.len()];
    for (sight, i) in sights.iter_mut().zip(queries.clone()) {
        sight.begin(task, task.position_of(i), start);
    }
    if sights.iter().all(|sight| sight.seen().is_empty()) {
        return;
    }
    N::multiply::<L>(&buffers.queries[queries.start * key..queries.end * key], &buffers.keys, sights);
    weigh::<L>(sights, &mut buffers.running[queries.clone()]);
    let sums = &mut buffers.sums[queries.start * value..queries.end * value];
    let values = if keys_serve::<N>(task) { &buffers.keys } else { &buffers.values };
    N::add_values::<L>(sights, values, sums);
}
