//! Attention over the pages of a KV cache, one task per (rows, key head).
//!
//! Keys and values are read in tiles of [`TILE`] positions, widened to f32 once for all query heads and rows of
//! the task; the softmax runs online (running maximum and sum, Milakov & Gimelshein 2018). Tiles start at fixed
//! positions, so a row's result does not depend on which other rows are computed with it.

use super::Output;
use super::floats::multiply_add;
use crate::ops::exp;
use crate::quant::{Block, Float, Format, Visit, visit};
use crate::simd::Isa;
use crate::threads::Team;
use std::cell::RefCell;

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

struct Floats<F>(std::marker::PhantomData<F>);
struct Blocks<B>(std::marker::PhantomData<B>);

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
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512::<C>,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::<C>,
            _ => body::<C, false>,
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn avx512<C: Cached>(task: &AttentionTask<'_>) {
    // SAFETY: passed on to the caller.
    unsafe { body::<C, true>(task) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<C: Cached>(task: &AttentionTask<'_>) {
    // SAFETY: passed on to the caller.
    unsafe { body::<C, true>(task) }
}

#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Per query: running maximum and sum.
    running: Vec<(f32, f32)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The place of query `i`'s result.
///
/// # Safety
/// Every task writes its own rows and heads.
#[inline(always)]
unsafe fn place<'a>(task: &AttentionTask<'a>, i: usize) -> &'a mut [f32] {
    let (row, head) = (task.row + i / task.queries.count, task.queries.first + i % task.queries.count);
    let start = row * task.output.stride + task.output.at + head * task.value_length;
    // SAFETY: the caller's promise.
    unsafe { task.output.values.slice(start, task.value_length) }
}

#[inline(always)]
unsafe fn body<C: Cached, const FMA: bool>(task: &AttentionTask<'_>) {
    // Taken out and put back: a closure would be compiled without the caller's instructions.
    let mut scratch = SCRATCH.take();
    scratch.keys.resize(TILE * task.key_length, 0.0);
    scratch.values.resize(TILE * task.value_length, 0.0);
    scratch.running.clear();
    let end = task.position + task.rows;
    let mut start = task.first_seen(task.position) / TILE * TILE;
    // SAFETY: places are this task's own, as the caller promised.
    unsafe {
        for i in 0..task.query_count() {
            scratch.running.push(task.sink(i).map_or((f32::NEG_INFINITY, 0.0), |sink| (sink, 1.0)));
            place(task, i).fill(0.0);
        }
        while start < end {
            load_tile::<C>(task, start, TILE.min(end - start), &mut scratch);
            for i in 0..task.query_count() {
                attend::<FMA>(task, i, start, &mut scratch, place(task, i));
            }
            start += TILE;
        }
        for i in 0..task.query_count() {
            let sum = scratch.running[i].1;
            for value in place(task, i) {
                *value /= sum;
            }
        }
    }
    SCRATCH.set(scratch);
}

#[inline(always)]
fn load_tile<C: Cached>(task: &AttentionTask<'_>, start: usize, len: usize, scratch: &mut Scratch) {
    let (page, at) = (start / task.page_len, task.head * task.page_len + start % task.page_len);
    load::<C>(&task.keys[page], at, len, task.key_length, &mut scratch.keys);
    if let Some(values) = task.values {
        load::<C>(&values[page], at, len, task.value_length, &mut scratch.values);
    }
}

#[inline(always)]
fn load<C: Cached>(page: &[u8], at: usize, len: usize, width: usize, out: &mut [f32]) {
    C::load(&page[at * C::bytes(width)..][..len * C::bytes(width)], &mut out[..len * width]);
}

/// Adds one tile to one query's running softmax.
#[inline(always)]
fn attend<const FMA: bool>(
    task: &AttentionTask<'_>,
    i: usize,
    start: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let position = task.position_of(i);
    let from = task.first_seen(position).saturating_sub(start);
    let to = (position + 1).saturating_sub(start).min(TILE);
    if from >= to {
        return;
    }
    let query = task.query(i);
    let mut scores = [f32::NEG_INFINITY; TILE];
    for (t, score) in scores.iter_mut().enumerate().take(to).skip(from) {
        *score = task.scale * dot::<FMA>(query, &scratch.keys[t * task.key_length..][..task.key_length]);
    }
    let (old_largest, old_sum) = scratch.running[i];
    let largest = scores.iter().fold(old_largest, |a, &b| a.max(b));
    let shrink = exp(old_largest - largest);
    for score in &mut scores {
        *score = exp(*score - largest);
    }
    scratch.running[i] = (largest, old_sum * shrink + scores[from..to].iter().sum::<f32>());
    if shrink != 1.0 {
        out.iter_mut().for_each(|value| *value *= shrink);
    }
    let (values, width) = match task.values {
        Some(_) => (&scratch.values, task.value_length),
        None => (&scratch.keys, task.key_length),
    };
    for (t, score) in scores.iter().enumerate().take(to).skip(from) {
        for (out, value) in out.iter_mut().zip(&values[t * width..][..task.value_length]) {
            *out = multiply_add::<FMA>(*score, *value, *out);
        }
    }
}

#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 32];
    let (a, a_rest) = a.as_chunks::<32>();
    let (b, b_rest) = b.as_chunks::<32>();
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = multiply_add::<FMA>(*a, *b, *lane);
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(0.0, |sum, (a, b)| multiply_add::<FMA>(*a, *b, sum));
    let mut width = 32;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0] + rest
}
