//! The slow twin: weights dequantized to f32 out of the file's own bytes, sums in f64, simple loops, one thread.

use super::super::kv_cache::KvCache;
use super::super::matrix::{Linear, Matrix, NormWeights};
use super::super::moe::{Router, Routing, Shape};
use super::super::observe::Observe;
use super::super::pool::PAGE;
use super::super::pool::Pool;
use super::super::state::Memory;
use super::super::step::{
    AttentionStep, Best, ChoiceStep, ConvStep, EntriesStep, Factor, Row, ScanStep, Span, Update,
};
use super::super::streams::{Mixing, Streams};
use super::along;
use super::chosen::{self, Chosen};
use super::entries::{self, Look, Seen};
use super::host::{self, HostBuffer, Kept, Step, host_steps};
use super::streams;
use super::{Backend, ExpertStep};
use crate::error::Result;
use crate::experts::{ExpertStore, Stack};
use crate::kernels::{CachedPages, Gathered, LowRank, MatrixRef, Relevance, STATE_COLUMNS};
use crate::ops::{Activation, Rope};
use crate::quant::Format;
use crate::simd::Isa;
use crate::threads::Team;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};

/// Computes with plain loops what [`super::Cpu`] computes with kernels.
pub struct Plain {
    team: Team,
    scratch: Kept<HostBuffer>,
    step: Step,
}

impl Plain {
    /// Of the steps that it shares with the others.
    fn isa(&self) -> Isa {
        Isa::Portable
    }

    /// The backend needs nothing.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { team: Team::new(1), scratch: Kept::default(), step: Step::default() }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() as f32
}

/// What stands beside a matrix.
#[derive(Clone, Copy, Default)]
struct Beside<'a> {
    bias: Option<&'a [f32]>,
    low_rank: Option<&'a LowRank>,
}

/// `out = matrix * x + bias` for one row, adapters included.
fn multiply(matrix: MatrixRef<'_>, beside: Beside<'_>, x: &[f32], out: &mut [f32]) {
    let mut row = vec![0f32; matrix.cols];
    let inner = beside
        .low_rank
        .map(|low_rank| low_rank.a().chunks_exact(matrix.cols).map(|a| dot(a, x)).collect::<Vec<f32>>());
    for (r, out) in out[..matrix.rows].iter_mut().enumerate() {
        matrix.row_to_f32(r, &mut row);
        let added = |low_rank: &LowRank| {
            let column: Vec<f32> = low_rank.b().chunks_exact(matrix.rows).map(|b| b[r]).collect();
            dot(&column, inner.as_deref().unwrap_or_default())
        };
        *out = dot(&row, x) + beside.low_rank.map_or(0.0, added) + beside.bias.map_or(0.0, |bias| bias[r]);
    }
}

fn multiply_expert(stack: &Stack, expert: u32, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; stack.rows];
    let beside = Beside { bias: stack.bias(expert), low_rank: stack.low_rank(expert) };
    multiply(stack.matrix(expert), beside, x, &mut out);
    out
}

fn softmax(scores: &mut [f64]) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// One position of one head out of the cache's pages.
fn cached(format: &Format, pages: CachedPages<'_>, head: usize, position: usize, width: usize) -> Vec<f32> {
    let bytes = format.row_bytes(width);
    let start = (head * PAGE + position % PAGE) * bytes;
    let mut out = vec![0f32; width];
    (format.dequantize)(&pages.page(position / PAGE)[start..start + bytes], &mut out);
    out
}

/// Every query head of every row, over the positions that it sees.
fn attend_rows<S: Iterator<Item = usize> + Clone>(
    step: &AttentionStep<'_>,
    queries: &HostBuffer,
    states: &[KvCache],
    out: &mut HostBuffer,
    seen: impl Fn(usize, &Row) -> S,
) {
    out.resize(step.rows.len(), step.queries.count * step.value_length);
    for (i, row) in step.rows.iter().enumerate() {
        let seen = seen(i, row);
        for head in 0..step.queries.count {
            let start = step.queries.at + head * step.queries.stride;
            let query = &queries.row(i)[start..start + step.queries.width];
            let value = attend(step, &states[row.sequence], query, head, seen.clone());
            out.row_mut(i)[head * step.value_length..][..step.value_length].copy_from_slice(&value);
        }
    }
}

/// One query head of one row.
fn attend(
    step: &AttentionStep<'_>,
    cache: &KvCache,
    query: &[f32],
    head: usize,
    seen: impl Iterator<Item = usize> + Clone,
) -> Vec<f32> {
    let kv_head = head * step.keys.count / step.queries.count;
    let key = |p| cached(cache.format(), cache.keys(step.layer), kv_head, p, step.queries.width);
    let mut scores: Vec<f64> = seen.clone().map(|p| (dot(query, &key(p)) * step.scale) as f64).collect();
    scores.extend(step.sinks.map(|sinks| sinks[head] as f64));
    softmax(&mut scores);
    let mut out = vec![0f64; step.value_length];
    for (p, score) in seen.zip(&scores) {
        let value = match cache.values(step.layer) {
            Some(values) => cached(cache.format(), values, kv_head, p, step.value_length),
            None => key(p),
        };
        out.iter_mut().zip(&value).for_each(|(out, value)| *out += score * *value as f64);
    }
    out.into_iter().map(|value| value as f32).collect()
}

/// One row of one head of a recurrence.
fn scan_head(
    step: &ScanStep<'_>,
    head: usize,
    [decay, strength]: [f32; 2],
    (x, state, out): (&[f32], &mut [f32], &mut [f32]),
) {
    let place = |span: Span, number: usize| &x[span.at + number * span.stride..][..span.width];
    let (query, key) = (place(step.queries, step.key_head(head)), place(step.keys, step.key_head(head)));
    let at = |i: usize, column: usize| {
        (column / STATE_COLUMNS * key.len() + i) * STATE_COLUMNS + column % STATE_COLUMNS
    };
    for (column, (value, out)) in place(step.values, head).iter().zip(out).enumerate() {
        (0..key.len()).for_each(|i| state[at(i, column)] *= decay);
        let said: f64 = key.iter().enumerate().map(|(i, key)| (state[at(i, column)] * key) as f64).sum();
        let taken = match step.update {
            Update::Delta { .. } => strength * (value - said as f32),
            Update::Whole { .. } => strength * value,
        };
        key.iter().enumerate().for_each(|(i, key)| state[at(i, column)] += key * taken);
        let sum: f64 = query.iter().enumerate().map(|(i, query)| (state[at(i, column)] * query) as f64).sum();
        *out = match step.update {
            Update::Delta { .. } => sum as f32,
            Update::Whole { skip } => sum as f32 + skip[head] * value,
        };
    }
}

/// Products of attention to entries, in f64.
struct Loops;

impl Look for Loops {
    fn relevance(&self, of: &Relevance<'_>, key: &[f32]) -> f32 {
        let heads = of.queries.chunks_exact(key.len()).zip(of.weights);
        let parts = heads.map(|(query, weight)| *weight as f64 * dot(query, key).max(0.0) as f64);
        (parts.sum::<f64>() * of.factor as f64) as f32
    }

    fn attend(&self, gathered: &Gathered<'_>, _: &mut [f32], out: &mut [f32]) {
        let keys = || gathered.keys.chunks_exact(gathered.query.len());
        let products = keys().map(|key| (dot(gathered.query, key) * gathered.scale) as f64);
        let mut scores: Vec<f64> = products.chain([gathered.sink as f64]).collect();
        softmax(&mut scores);
        for (column, out) in out.iter_mut().enumerate() {
            *out = keys().zip(&scores).map(|(key, score)| key[column] as f64 * score).sum::<f64>() as f32;
        }
    }
}

impl Backend for Plain {
    type Turn<'s> = ();

    host_steps!();

    fn linear(&self, linear: &Linear, x: &mut HostBuffer, out: &mut HostBuffer, at: usize) {
        out.resize(x.rows(), out.width());
        for row in 0..x.rows() {
            let beside = Beside { bias: linear.bias.as_deref(), low_rank: linear.low_rank.as_deref() };
            multiply(linear.matrix.view(), beside, x.row(row), &mut out.row_mut(row)[at..]);
        }
    }

    fn linear_heads(&self, heads: &[Matrix], x: &HostBuffer, from: Span, out: &mut HostBuffer, to: Span) {
        for row in 0..x.rows() {
            for (i, head) in heads.iter().enumerate() {
                let input = &x.row(row)[from.at + i * from.stride..][..from.width];
                multiply(
                    head.view(),
                    Beside::default(),
                    input,
                    &mut out.row_mut(row)[to.at + i * to.stride..],
                );
            }
        }
    }

    fn attention(
        &self,
        step: &AttentionStep<'_>,
        queries: &HostBuffer,
        states: &[KvCache],
        out: &mut HostBuffer,
    ) {
        attend_rows(step, queries, states, out, |_, row| {
            let first = step.window.map_or(0, |window| (row.position + 1).saturating_sub(window));
            first..row.position + 1
        });
    }

    fn choose(&self, step: &ChoiceStep<'_>, x: &HostBuffer, states: &[KvCache], chosen: &mut Chosen) {
        let (heads, width) = (step.queries.count, step.queries.width);
        let score = |cache: &KvCache, page: usize, rows: Range<usize>, out: &mut [f32]| {
            for (row, out) in rows.zip(out.chunks_exact_mut(PAGE)) {
                for (at, out) in out.iter_mut().enumerate() {
                    let key = cached(cache.format(), cache.index(step.layer), 0, page * PAGE + at, width);
                    let x = x.row(row);
                    let queries = x[step.queries.at..][..heads * width].chunks_exact(width);
                    let weighed = queries
                        .zip(&x[step.weights..])
                        .map(|(query, weight)| (weight * dot(query, &key).max(0.0)) as f64);
                    *out = weighed.sum::<f64>() as f32;
                }
            }
        };
        let mut scores = vec![];
        chosen::choose(&self.team, step, states, &mut scores, score, chosen);
    }

    fn attention_to(
        &self,
        chosen: &Chosen,
        step: &AttentionStep<'_>,
        queries: &HostBuffer,
        states: &[KvCache],
        out: &mut HostBuffer,
    ) {
        attend_rows(step, queries, states, out, |i, row| {
            let all = || (0..=row.position as u32).collect();
            chosen.of(i).map_or_else(all, <[u32]>::to_vec).into_iter().map(|position| position as usize)
        });
    }

    fn convolve(&self, step: &ConvStep<'_>, x: &mut HostBuffer, states: &mut [KvCache]) {
        let (taps, channels) = (step.taps(), step.channels);
        along::along(step.rows, states, (step.layer, 0..step.state_len()), |state, rows| {
            for row in rows {
                for channel in 0..channels {
                    let place = &mut x.row_mut(row)[step.at + channel];
                    let past = (0..taps - 1).map(|tap| state[tap * channels + channel]);
                    let inputs: Vec<f32> = past.chain([*place]).collect();
                    let weights = (0..taps).map(|tap| step.weights[tap * channels + channel]);
                    let products = inputs.iter().zip(weights).map(|(input, weight)| (input * weight) as f64);
                    let sum = products.sum::<f64>() as f32 + step.bias.map_or(0.0, |bias| bias[channel]);
                    *place = step.activation.map_or(sum, |activation| activation.apply(sum));
                    for (tap, input) in inputs[1..].iter().enumerate() {
                        state[tap * channels + channel] = *input;
                    }
                }
            }
        });
    }

    fn scan(&self, step: &ScanStep<'_>, x: &HostBuffer, states: &mut [KvCache], out: &mut HostBuffer) {
        let mut factors = self.scratch.take();
        along::scan_factors(&self.team, step, x, &mut factors);
        let (heads, head_len) = (step.values.count, step.head_len());
        out.resize(x.rows(), heads * step.values.width);
        let part = step.state_at..step.state_at + heads * head_len;
        along::along(step.rows, states, (step.layer, part), |state, rows| {
            for row in rows {
                for head in 0..heads {
                    let factors = [0, 1].map(|i| factors.row(row)[2 * head + i]);
                    let out = &mut out.row_mut(row)[head * step.values.width..][..step.values.width];
                    let state = &mut state[head * head_len..][..head_len];
                    scan_head(step, head, factors, (x.row(row), state, out));
                }
            }
        });
        self.scratch.give(factors);
    }

    fn attend_entries(
        &self,
        step: &EntriesStep<'_>,
        x: &HostBuffer,
        angles: &HostBuffer,
        states: &mut [KvCache],
        out: &mut HostBuffer,
    ) {
        let mut seen = Seen::default();
        entries::attend((&self.team, &Loops), step, (x, angles), states, (out, &mut seen));
    }

    fn ask(&self, _: &ExpertStore, _: usize, _: &Routing) -> Result<()> {
        Ok(())
    }

    fn collect<O: Observe>(&self, (): (), step: ExpertStep<'_, Self>, _: &mut O) -> Result<()> {
        let ExpertStep { store, layer, experts, routing, normed, added, .. } = step;
        let stacks = store.layer(layer);
        for row in 0..normed.rows() {
            for (i, choice) in routing.choices(row).iter().enumerate() {
                if routing.is_dropped(row, i) {
                    continue;
                }
                let x = normed.row(row);
                let gate = stacks.gate.as_ref().map(|gate| multiply_expert(gate, choice.index, x));
                let mut hidden = multiply_expert(&stacks.up, choice.index, x);
                experts.activation.combine(self.isa(), gate.as_deref(), &mut hidden);
                let out = multiply_expert(&stacks.down, choice.index, &hidden);
                added.row_mut(row).iter_mut().zip(&out).for_each(|(sum, out)| *sum += choice.score * out);
            }
        }
        Ok(())
    }
}
