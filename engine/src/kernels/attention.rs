//! Attention over the pages of a KV cache, one task per (rows, key head).
//!
//! Keys and values are read in tiles of [`TILE`] positions, laid out once for all query heads and rows of the task; the
//! softmax runs online (running maximum and sum, Milakov & Gimelshein 2018). Products are those of f32 (`exact.rs`); where
//! the machine has the instruction and a cache is no more than half as long, many queries take values in BF16
//! (`pairs.rs`). What is between products is the same (`tile.rs`). Tiles start at fixed positions, so a row's result does
//! not depend on which other rows are computed with it, but for that choice.

mod exact;
mod pairs;
#[cfg(test)]
mod tests;
mod tile;

use super::cache::prefetch;
use super::job::{Output, Places};
use crate::quant::{Block, Float, Format, Visit, visit};
use crate::simd::{Isa, LANES, Lanes, Work};
use crate::threads::Team;
use exact::Exact;
use pairs::Pairs;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use tile::{Part, weigh};

/// Queries that take each step together: what one of them waits for is done for another.
const BLOCK: usize = 8;

/// Fewer queries do not make up for the turning of keys and the pairing of values.
const FEW: usize = 16;

/// Positions per tile: keys of width 128 then fill half of a first-level cache.
const TILE: usize = 32;

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
    of: Attended<'a>,
    /// Which key head.
    head: usize,
    /// First row of the batch.
    row: usize,
    /// Rows; the first stands at `position`, the others follow.
    rows: usize,
    /// Position of the first row.
    position: usize,
    /// Head after head.
    output: Places<'a>,
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
    fn query(&self, i: usize) -> &'a [f32] {
        let (row, head) = (self.row + i / self.of.queries.count, i % self.of.queries.count);
        let start = row * self.of.queries.width + self.of.queries.at + head * self.of.queries.stride;
        &self.of.queries.values[start..start + self.of.key_length]
    }

    fn query_count(&self) -> usize {
        self.rows * self.of.queries.count
    }

    /// Columns of a query and of a key.
    #[inline(always)]
    fn key_columns(&self) -> usize {
        self.of.key_length.div_ceil(LANES)
    }

    /// Columns of a value and of a result.
    #[inline(always)]
    fn value_columns(&self) -> usize {
        self.of.value_length.div_ceil(LANES)
    }

    #[inline(always)]
    fn position_of(&self, i: usize) -> usize {
        self.position + i / self.of.queries.count
    }

    /// First position that a row at `position` sees.
    #[inline(always)]
    fn first_seen(&self, position: usize) -> usize {
        self.of.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    fn sink(&self, i: usize) -> Option<f32> {
        self.of.sinks.map(|sinks| sinks[self.of.queries.first + i % self.of.queries.count])
    }
}

/// Computes every query of a task.
///
/// # Safety
/// No other task may have the same rows and heads of the output.
pub(crate) type AttentionKernel = unsafe fn(&AttentionTask<'_>);

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

/// Cache elements: how a run of them becomes f32.
trait Cached {
    /// Whether values may become BF16, and runs of 32 can be loaded.
    const IS_SHORT: bool;
    fn load<L: Lanes>(bytes: &[u8], out: &mut [f32]);
    /// A run of 32.
    #[inline(always)]
    fn load_run<L: Lanes>(bytes: &[u8]) -> [L; 2] {
        let mut out = [0.0; 2 * LANES];
        Self::load::<L>(bytes, &mut out);
        halves(&out)
    }
    fn bytes(len: usize) -> usize;
}

#[inline(always)]
fn halves<L: Lanes>(run: &[f32; 2 * LANES]) -> [L; 2] {
    let [lower, upper] = run.as_chunks().0 else { unreachable!("a run has two halves") };
    [L::load(lower), L::load(upper)]
}

struct Floats<F>(PhantomData<F>);
struct Blocks<B>(PhantomData<B>);

impl<F: Float> Cached for Floats<F> {
    const IS_SHORT: bool = size_of::<F>() == 2;
    #[inline(always)]
    fn load_run<L: Lanes>(bytes: &[u8]) -> [L; 2] {
        let (lower, upper) = bytes.split_at(LANES * size_of::<F>());
        [F::load(lower), F::load(upper)]
    }
    #[inline(always)]
    fn load<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
        let (chunks, rest) = out.as_chunks_mut();
        let (chunk_bytes, rest_bytes) = bytes.split_at(chunks.len() * LANES * size_of::<F>());
        for (out, bytes) in chunks.iter_mut().zip(chunk_bytes.chunks_exact(LANES * size_of::<F>())) {
            *out = F::load::<L>(bytes).store();
        }
        for (out, bytes) in rest.iter_mut().zip(rest_bytes.chunks_exact(size_of::<F>())) {
            *out = bytemuck::pod_read_unaligned::<F>(bytes).to_f32();
        }
    }
    fn bytes(len: usize) -> usize {
        len * size_of::<F>()
    }
}

impl<B: Block> Cached for Blocks<B> {
    const IS_SHORT: bool = B::LEN == 32;
    #[inline(always)]
    fn load<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
        for (out, bytes) in out.chunks_exact_mut(B::LEN).zip(bytes.chunks_exact(size_of::<B>())) {
            bytemuck::pod_read_unaligned::<B>(bytes).dequantize(out);
        }
    }
    fn bytes(len: usize) -> usize {
        len / B::LEN * size_of::<B>()
    }
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

/// Sixteen lanes. Rows are filled up with zeros.
type Columns = [f32; LANES];

/// How the numbers of a tile lie, and what queries do with them.
trait Numbers {
    /// How many values there are in a lane.
    const VALUES_PER_LANE: usize;
    /// Whether keys lie as values do: those that are a part of them are there already.
    const KEYS_SERVE_AS_VALUES: bool;

    /// A tile's keys, out of the cache.
    fn keys<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]);

    /// A tile's values.
    fn values<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]);

    /// The scores of queries: their products with a tile's keys.
    fn multiply<L: Lanes>(queries: &[Columns], keys: &[Columns], parts: &mut [Part]);

    /// Shrinks the sums of queries and adds a tile's values, by their weights.
    fn add_values<L: Lanes>(parts: &[Part], values: &[Columns], sums: &mut [Columns]);

    /// Adds values, by their weights, to sums.
    fn add<L: Lanes>(sum: L, weight: L, value: L) -> L;
}

/// What a task works on. Rows of queries and sums are `(row, head)`.
#[derive(Default)]
struct Scratch {
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
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
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

/// Rows of which the first columns are wanted.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn iter(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.row_bytes)
    }

    #[inline(always)]
    fn row(&self, at: usize) -> Option<&'a [u8]> {
        self.bytes.get(at * self.row_bytes..(at + 1) * self.row_bytes)
    }
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
        let mut scratch = SCRATCH.take();
        scratch.begin::<N>(task);
        let end = task.position + task.rows;
        let mut start = task.first_seen(task.position) / TILE * TILE;
        let mut rows = CachedRows::new::<C>(task, start, end);
        while start < end {
            scratch.load_tile::<C, N, L>(task, &rows);
            rows = CachedRows::new::<C>(task, start + TILE, end);
            for first in (0..task.query_count()).step_by(BLOCK) {
                rows.ask_for(first / BLOCK, task.query_count().div_ceil(BLOCK));
                let queries = first..task.query_count().min(first + BLOCK);
                attend::<N, L>(task, queries, start, &mut scratch);
            }
            start += TILE;
        }
        for (i, sums) in scratch.sums.chunks_exact(task.value_columns()).enumerate() {
            let sum = scratch.running[i].1;
            // SAFETY: whoever runs a task says so of its rows and heads, and this one is at one place at a time.
            let place = unsafe { place(task, i) };
            place.iter_mut().zip(sums.as_flattened()).for_each(|(place, value)| *place = value / sum);
        }
        SCRATCH.set(scratch);
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
    scratch: &mut Scratch,
) {
    let (key, value) = (task.key_columns(), task.value_columns());
    let mut parts = [Part::default(); BLOCK];
    let parts = &mut parts[..queries.len()];
    for (part, i) in parts.iter_mut().zip(queries.clone()) {
        part.begin(task, task.position_of(i), start);
    }
    if parts.iter().all(|part| part.seen().is_empty()) {
        return;
    }
    N::multiply::<L>(&scratch.queries[queries.start * key..queries.end * key], &scratch.keys, parts);
    weigh::<L>(parts, &mut scratch.running[queries.clone()]);
    let sums = &mut scratch.sums[queries.start * value..queries.end * value];
    let values = if keys_serve::<N>(task) { &scratch.keys } else { &scratch.values };
    N::add_values::<L>(parts, values, sums);
}
