//! Attention over the pages of a KV cache, one task per (rows, key head).
//!
//! Keys and values are read in tiles of [`TILE`] positions, widened to f32 once for all query heads and rows of
//! the task; the softmax runs online (running maximum and sum, Milakov & Gimelshein 2018). Tiles start at fixed
//! positions, so a row's result does not depend on which other rows are computed with it.

use super::floats::multiply_add;
use crate::ops::exp;
use crate::quant::{Block, Float, Format, Visit, visit};
use crate::simd::Isa;
use std::cell::RefCell;

/// Positions per tile: keys of width 128 then fill half of a first-level cache.
const TILE: usize = 32;

/// One key head over some rows of one sequence.
pub struct AttentionTask<'a> {
    /// `(page, position in page, key_length)` of this head: bytes in the cache's format.
    pub keys: &'a [&'a [u8]],
    /// `(page, position in page, value_length)` of this head.
    pub values: &'a [&'a [u8]],
    /// Positions per page, a multiple of 32.
    pub page_len: usize,
    /// Width of a key, at most the query's stride.
    pub key_length: usize,
    /// Width of a value.
    pub value_length: usize,
    /// Factor on the products.
    pub scale: f32,
    /// How many positions a row sees back, itself included; `None` for all.
    pub window: Option<usize>,
    /// Query heads that share this key head.
    pub queries: &'a [Query<'a>],
}

/// One query vector and what it attends to.
pub struct Query<'a> {
    /// `(key_length)`.
    pub vector: &'a [f32],
    /// It sees positions `..= position`.
    pub position: usize,
    /// A logit that takes probability and gives nothing (gpt-oss).
    pub sink: Option<f32>,
}

/// Computes `out[i]` (value_length each, one after the other) for every query of the task.
pub type AttentionKernel = unsafe fn(&AttentionTask<'_>, &mut [f32]);

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
unsafe fn avx512<C: Cached>(task: &AttentionTask<'_>, out: &mut [f32]) {
    body::<C, true>(task, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<C: Cached>(task: &AttentionTask<'_>, out: &mut [f32]) {
    body::<C, true>(task, out);
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

#[inline(always)]
fn body<C: Cached, const FMA: bool>(task: &AttentionTask<'_>, out: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.keys.resize(TILE * task.key_length, 0.0);
        scratch.values.resize(TILE * task.value_length, 0.0);
        scratch.running.clear();
        scratch.running.extend(task.queries.iter().map(|query| match query.sink {
            Some(sink) => (sink, 1.0),
            None => (f32::NEG_INFINITY, 0.0),
        }));
        out.fill(0.0);
        let first = task.queries.iter().map(|query| first_position(task, query)).min().unwrap_or(0);
        let end = task.queries.iter().map(|query| query.position + 1).max().unwrap_or(0);
        let mut start = first / TILE * TILE;
        while start < end {
            load_tile::<C>(task, start, end.min(start + TILE) - start, scratch);
            for (i, query) in task.queries.iter().enumerate() {
                let out = &mut out[i * task.value_length..][..task.value_length];
                attend::<FMA>(task, query, start, scratch, i, out);
            }
            start += TILE;
        }
        for (out, (_, sum)) in out.chunks_exact_mut(task.value_length).zip(&scratch.running) {
            out.iter_mut().for_each(|value| *value /= sum);
        }
    });
}

#[inline(always)]
fn first_position(task: &AttentionTask<'_>, query: &Query<'_>) -> usize {
    task.window.map_or(0, |window| (query.position + 1).saturating_sub(window))
}

#[inline(always)]
fn load_tile<C: Cached>(task: &AttentionTask<'_>, start: usize, len: usize, scratch: &mut Scratch) {
    let (page, at) = (start / task.page_len, start % task.page_len);
    for (pages, width, out) in [
        (task.keys, task.key_length, &mut scratch.keys),
        (task.values, task.value_length, &mut scratch.values),
    ] {
        let bytes = &pages[page][at * C::bytes(width)..][..len * C::bytes(width)];
        C::load(bytes, &mut out[..len * width]);
    }
}

/// Adds one tile to one query's running softmax.
#[inline(always)]
fn attend<const FMA: bool>(
    task: &AttentionTask<'_>,
    query: &Query<'_>,
    start: usize,
    scratch: &mut Scratch,
    i: usize,
    out: &mut [f32],
) {
    let from = first_position(task, query).saturating_sub(start);
    let to = (query.position + 1).saturating_sub(start).min(TILE);
    if from >= to {
        return;
    }
    let mut scores = [f32::NEG_INFINITY; TILE];
    for t in from..to {
        let key = &scratch.keys[t * task.key_length..][..task.key_length];
        scores[t] = task.scale * dot::<FMA>(query.vector, key);
    }
    let (old_largest, old_sum) = scratch.running[i];
    let largest = scores.iter().fold(old_largest, |a, &b| a.max(b));
    let shrink = exp(old_largest - largest);
    for score in &mut scores {
        *score = exp(*score - largest);
    }
    let sum: f32 = scores[from..to].iter().sum();
    scratch.running[i] = (largest, old_sum * shrink + sum);
    if shrink != 1.0 {
        out.iter_mut().for_each(|value| *value *= shrink);
    }
    for t in from..to {
        let value = &scratch.values[t * task.value_length..][..task.value_length];
        for (out, value) in out.iter_mut().zip(value) {
            *out = multiply_add::<FMA>(scores[t], *value, *out);
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
