//! Attention over the pages of a KV cache, one task per (rows, key head).
//!
//! Keys and values are read in tiles of [`TILE`] positions, widened to f32 once for all query heads and rows of
//! the task; the softmax runs online (running maximum and sum, Milakov & Gimelshein 2018). Tiles start at fixed
//! positions, so a row's result does not depend on which other rows are computed with it.

use super::Output;
use crate::ops::exp;
use crate::quant::{Block, Float, Format, Visit, visit};
use crate::simd::{Isa, LANES, Lanes, Work};
use crate::threads::Team;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// Positions per tile: keys of width 128 then fill half of a first-level cache.
const TILE: usize = 32;

/// One key head over neighbouring rows of one sequence.
pub struct AttentionTask<'a> {
    /// Pages of keys, each `(head, position in page, key_length)` in the cache's format.
    pub keys: &'a [Vec<u8>],
    /// Pages of values, likewise; `None` where a key's first columns are the value.
    pub values: Option<&'a [Vec<u8>]>,
    /// Which key head.
    pub head: usize,
    /// Positions per page, a multiple of 32.
    pub page_len: usize,
    /// Width of a key.
    pub key_length: usize,
    /// Width of a value.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// How many positions a row sees back, itself included; `None` for all.
    pub window: Option<usize>,
    /// One logit per query head that takes probability and gives nothing (gpt-oss).
    pub sinks: Option<&'a [f32]>,
    /// The queries.
    pub queries: Queries<'a>,
    /// First row of the batch.
    pub row: usize,
    /// Rows; the first stands at `position`, the others follow.
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
    /// Row-major results, head after head from column `at`.
    pub output: Output<'a>,
}

/// Query heads in row-major rows.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// All rows.
    pub values: &'a [f32],
    /// Width of a row.
    pub width: usize,
    /// Column of the first head that shares the key head.
    pub at: usize,
    /// Number of the first head that shares the key head.
    pub first: usize,
    /// Heads that share it.
    pub count: usize,
    /// Columns from one head to the next.
    pub stride: usize,
}

impl<'a> AttentionTask<'a> {
    /// Query `i`: row after row, in each the heads that share the key head.
    #[inline(always)]
    fn query(&self, i: usize) -> &'a [f32] {
        let (row, head) = (self.row + i / self.queries.count, i % self.queries.count);
        let start = row * self.queries.width + self.queries.at + head * self.queries.stride;
        &self.queries.values[start..start + self.key_length]
    }

    fn query_count(&self) -> usize {
        self.rows * self.queries.count
    }

    #[inline(always)]
    fn position_of(&self, i: usize) -> usize {
        self.position + i / self.queries.count
    }

    /// First position that a row at `position` sees.
    #[inline(always)]
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    fn sink(&self, i: usize) -> Option<f32> {
        self.sinks.map(|sinks| sinks[self.queries.first + i % self.queries.count])
    }
}

/// Computes every query of a task. No other task may write the same places of the output.
pub type AttentionKernel = unsafe fn(&AttentionTask<'_>);

/// Neighbouring rows of a batch that belong to one sequence and stand at consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBlock {
    /// First row of the batch.
    pub row: usize,
    /// Rows.
    pub rows: usize,
    /// Position of the first.
    pub position: usize,
    /// Whose cache they see.
    pub sequence: usize,
}

/// Attention of all blocks and key heads: `task` describes a block's first key head; rows and heads are filled in.
///
/// # Panics
/// When blocks overlap.
pub fn attention<'a>(
    team: &Team,
    kernel: AttentionKernel,
    blocks: &[RowBlock],
    heads: usize,
    task: impl Fn(&RowBlock) -> AttentionTask<'a> + Sync,
) {
    assert!(blocks.windows(2).all(|pair| pair[0].row + pair[0].rows <= pair[1].row));
    team.run(blocks.len() * heads, |i| {
        let (block, head) = (&blocks[i / heads], i % heads);
        let mut task = task(block);
        (task.row, task.rows, task.position, task.head) = (block.row, block.rows, block.position, head);
        task.queries.at += head * task.queries.count * task.queries.stride;
        task.queries.first = head * task.queries.count;
        // SAFETY: blocks do not overlap and every head has its own columns.
        unsafe { kernel(&task) };
    });
}

/// Picks the attention over a cache format for an instruction set.
///
/// # Panics
/// When this machine lacks the instruction set.
pub fn select_attention(format: &Format, isa: Isa) -> AttentionKernel {
    assert!(isa.is_available(), "{isa} is not available");
    visit(format, Select(isa))
}

/// Cache elements: how a run of them becomes f32.
trait Cached {
    fn load(bytes: &[u8], out: &mut [f32]);
    fn bytes(len: usize) -> usize;
}

struct Floats<F>(PhantomData<F>);
struct Blocks<B>(PhantomData<B>);

impl<F: Float> Cached for Floats<F> {
    #[inline(always)]
    fn load(bytes: &[u8], out: &mut [f32]) {
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(size_of::<F>())) {
            *out = bytemuck::pod_read_unaligned::<F>(bytes).to_f32();
        }
    }
    fn bytes(len: usize) -> usize {
        len * size_of::<F>()
    }
}

impl<B: Block> Cached for Blocks<B> {
    #[inline(always)]
    fn load(bytes: &[u8], out: &mut [f32]) {
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
        match self.0 {
            Isa::Portable => |task| Isa::Portable.run(Attend::<C>(task, PhantomData)),
            Isa::Avx2 | Isa::AvxVnni => |task| Isa::Avx2.run(Attend::<C>(task, PhantomData)),
            Isa::Avx512Vnni => |task| Isa::Avx512Vnni.run(Attend::<C>(task, PhantomData)),
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

/// Sixteen columns. Rows are filled up with zeros.
type Columns = [f32; LANES];

/// A query's products with a tile's keys.
type Scores = [Columns; TILE / LANES];

/// What a task works on. Rows of queries and sums are `(row, head)`.
#[derive(Default)]
struct Scratch {
    /// The tile's, `(TILE, columns of a key)`.
    keys: Vec<Columns>,
    /// `(TILE, columns of a value)`; empty where they are a part of the keys.
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
    fn begin(&mut self, task: &AttentionTask<'_>) {
        let (key, value) = (task.key_length.div_ceil(LANES), task.value_length.div_ceil(LANES));
        let queries = task.query_count();
        self.keys.clear();
        self.keys.resize(TILE * key, [0.0; LANES]);
        self.values.clear();
        self.values.resize(if task.values.is_some() { TILE * value } else { 0 }, [0.0; LANES]);
        self.queries.clear();
        self.queries.resize(queries * key, [0.0; LANES]);
        for (i, query) in self.queries.chunks_exact_mut(key).enumerate() {
            query.as_flattened_mut()[..task.key_length].copy_from_slice(task.query(i));
        }
        self.sums.clear();
        self.sums.resize(queries * value, [0.0; LANES]);
        self.running.clear();
        let sink = |i| task.sink(i).map_or((f32::NEG_INFINITY, 0.0), |sink| (sink, 1.0));
        self.running.extend((0..queries).map(sink));
    }

    #[inline(always)]
    fn load_tile<C: Cached>(&mut self, task: &AttentionTask<'_>, start: usize, len: usize) {
        let (page, at) = (start / task.page_len, task.head * task.page_len + start % task.page_len);
        load::<C>(&task.keys[page], at..at + len, task.key_length, &mut self.keys);
        if let Some(values) = task.values {
            load::<C>(&values[page], at..at + len, task.value_length, &mut self.values);
        }
    }
}

#[inline(always)]
fn load<C: Cached>(page: &[u8], rows: Range<usize>, width: usize, out: &mut [Columns]) {
    let row_bytes = C::bytes(width);
    let rows = page[rows.start * row_bytes..rows.end * row_bytes].chunks_exact(row_bytes);
    for (row, out) in rows.zip(out.chunks_exact_mut(width.div_ceil(LANES))) {
        C::load(row, &mut out.as_flattened_mut()[..width]);
    }
}

/// All queries of a task.
struct Attend<'t, 'a, C>(&'t AttentionTask<'a>, PhantomData<C>);

impl<C: Cached> Work for Attend<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let task = self.0;
        // Taken out and put back: a closure would be compiled without the caller's instructions.
        let mut scratch = SCRATCH.take();
        scratch.begin(task);
        let end = task.position + task.rows;
        let mut start = task.first_seen(task.position) / TILE * TILE;
        while start < end {
            scratch.load_tile::<C>(task, start, TILE.min(end - start));
            for i in 0..task.query_count() {
                attend::<L>(task, i, start, &mut scratch);
            }
            start += TILE;
        }
        for (i, sums) in scratch.sums.chunks_exact(task.value_length.div_ceil(LANES)).enumerate() {
            let sum = scratch.running[i].1;
            // SAFETY: every task writes its own rows and heads.
            let place = unsafe { place(task, i) };
            place.iter_mut().zip(sums.as_flattened()).for_each(|(place, value)| *place = value / sum);
        }
        SCRATCH.set(scratch);
    }
}

/// The place of query `i`'s result.
///
/// # Safety
/// No other task may hold the same rows and heads.
#[inline(always)]
unsafe fn place<'a>(task: &AttentionTask<'a>, i: usize) -> &'a mut [f32] {
    let (row, head) = (task.row + i / task.queries.count, task.queries.first + i % task.queries.count);
    let start = row * task.output.stride + task.output.at + head * task.value_length;
    // SAFETY: the caller's promise.
    unsafe { task.output.values.slice(start, task.value_length) }
}

/// Adds one tile to one query's running softmax.
#[inline(always)]
fn attend<L: Lanes>(task: &AttentionTask<'_>, i: usize, start: usize, scratch: &mut Scratch) {
    let position = task.position_of(i);
    let from = task.first_seen(position).saturating_sub(start);
    let to = (position + 1).saturating_sub(start).min(TILE);
    if from >= to {
        return;
    }
    let width = task.key_length.div_ceil(LANES);
    let mut scores = scores::<L>(&scratch.queries[i * width..][..width], &scratch.keys);
    for (t, score) in scores.as_flattened_mut().iter_mut().enumerate() {
        *score = if t >= from && t < to { task.scale * *score } else { f32::NEG_INFINITY };
    }
    let (old_largest, old_sum) = scratch.running[i];
    let largest = largest::<L>(&scores).max(old_largest);
    let shrink = exp(old_largest - largest);
    for score in scores.as_flattened_mut() {
        *score = exp(*score - largest);
    }
    scratch.running[i] = (largest, old_sum * shrink + (L::load(&scores[0]) + L::load(&scores[1])).sum());
    let values = if task.values.is_some() { &scratch.values } else { &scratch.keys };
    let width = values.len() / TILE;
    let len = task.value_length.div_ceil(LANES);
    let sums = &mut scratch.sums[i * len..][..len];
    add_values::<L>(shrink, &scores.as_flattened()[from..to], &values[from * width..to * width], sums);
}

#[inline(always)]
fn largest<L: Lanes>(scores: &Scores) -> f32 {
    let largest = L::load(&scores[0]).max(L::load(&scores[1]));
    -(L::splat(0.0) - largest).smallest()
}

/// A query's products with all keys of a tile.
#[inline(always)]
fn scores<L: Lanes>(query: &[Columns], keys: &[Columns]) -> Scores {
    let mut scores = [[0f32; LANES]; TILE / LANES];
    let places = scores.as_flattened_mut().as_chunks_mut().0;
    for (scores, keys) in places.iter_mut().zip(keys.chunks_exact(query.len() * TOGETHER)) {
        *scores = dots::<L>(query, keys);
    }
    scores
}

/// Sums that run at once: as many as hide the time that an addition takes.
const TOGETHER: usize = 8;

/// A query times keys that follow each other.
#[inline(always)]
fn dots<L: Lanes>(query: &[Columns], keys: &[Columns]) -> [f32; TOGETHER] {
    assert!(keys.len() == TOGETHER * query.len());
    let mut sums = [L::splat(0.0); TOGETHER];
    for (at, columns) in query.iter().enumerate() {
        let columns = L::load(columns);
        for (k, sum) in sums.iter_mut().enumerate() {
            // SAFETY: inside, as asserted; a check here would keep the sums out of registers.
            let key = unsafe { keys.get_unchecked(k * query.len() + at) };
            *sum = columns.multiply_add(L::load(key), *sum);
        }
    }
    let mut dots = [0f32; TOGETHER];
    for (dot, sum) in dots.iter_mut().zip(sums) {
        *dot = sum.sum();
    }
    dots
}

/// `sums * shrink + weights * values`; the rows of the values may be wider than the sums.
#[inline(always)]
fn add_values<L: Lanes>(shrink: f32, weights: &[f32], values: &[Columns], sums: &mut [Columns]) {
    let rows = Weighted { shrink, weights, width: values.len() / weights.len() };
    let (values, sums) = rows.add_spans::<L, TOGETHER>(values, sums);
    let (values, sums) = rows.add_spans::<L, { TOGETHER / 2 }>(values, sums);
    rows.add_spans::<L, 1>(values, sums);
}

/// What all columns are weighed with.
struct Weighted<'a> {
    shrink: f32,
    weights: &'a [f32],
    /// Columns from one row of the values to the next.
    width: usize,
}

impl Weighted<'_> {
    /// As many spans of `N` columns as there are; returns what is left.
    #[inline(always)]
    fn add_spans<'v, 's, L: Lanes, const N: usize>(
        &self,
        values: &'v [Columns],
        sums: &'s mut [Columns],
    ) -> (&'v [Columns], &'s mut [Columns]) {
        let (spans, rest) = sums.as_chunks_mut::<N>();
        let mut values = values;
        for span in spans {
            self.add_columns::<L, N>(values, span);
            values = &values[N..];
        }
        (values, rest)
    }

    /// Of the `N` columns that the values begin with.
    #[inline(always)]
    fn add_columns<L: Lanes, const N: usize>(&self, values: &[Columns], out: &mut [Columns; N]) {
        let mut sums = [L::splat(0.0); N];
        for (sum, out) in sums.iter_mut().zip(&*out) {
            *sum = L::load(out) * L::splat(self.shrink);
        }
        for (weight, row) in self.weights.iter().zip(values.chunks(self.width)) {
            let (weight, row) = (L::splat(*weight), &row[..N]);
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = weight.multiply_add(L::load(value), *sum);
            }
        }
        for (sum, out) in sums.iter().zip(out) {
            *out = sum.store();
        }
    }
}
