//! What queries do with one tile of keys and values: products, weights, weighted sums.
//!
//! Every step keeps its running sums in registers; two queries share what they load.

use super::{AttentionTask, Columns, TILE};
use crate::ops::exp;
use crate::simd::{LANES, Lanes};
use std::ops::Range;

/// A query's products with a tile's keys.
type Scores = [Columns; TILE / LANES];

/// What one query has to do with a tile.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    /// The positions of the tile that it sees.
    from: usize,
    to: usize,
    /// Its products with the keys, then the weights of the values.
    scores: Scores,
    /// Factor on the sums so far.
    shrink: f32,
}

impl Part {
    #[inline(always)]
    pub(super) fn new(task: &AttentionTask<'_>, position: usize, start: usize) -> Self {
        let to = (position + 1).saturating_sub(start).min(TILE);
        let from = task.first_seen(position).saturating_sub(start).min(to);
        Self { from, to, shrink: 1.0, ..Self::default() }
    }

    #[inline(always)]
    pub(super) fn seen(&self) -> Range<usize> {
        self.from..self.to
    }

    /// Turns scores into weights against the running maximum, and adds them to the running sum.
    #[inline(always)]
    pub(super) fn weigh<L: Lanes>(&mut self, scale: f32, running: &mut (f32, f32)) {
        if self.seen().is_empty() {
            return;
        }
        for scores in &mut self.scores {
            *scores = (L::splat(scale) * L::load(scores)).store();
        }
        let scores = self.scores.as_flattened_mut();
        scores[..self.from].fill(f32::NEG_INFINITY);
        scores[self.to..].fill(f32::NEG_INFINITY);
        let (old_largest, old_sum) = *running;
        let largest = largest::<L>(&self.scores).max(old_largest);
        for score in self.scores.as_flattened_mut() {
            *score = exp(*score - largest);
        }
        self.shrink = exp(old_largest - largest);
        let sum = (L::load(&self.scores[0]) + L::load(&self.scores[1])).sum();
        *running = (largest, old_sum * self.shrink + sum);
    }

    /// The weights of what it sees.
    #[inline(always)]
    fn weights(&self) -> &[f32] {
        &self.scores.as_flattened()[self.seen()]
    }
}

#[inline(always)]
fn largest<L: Lanes>(scores: &Scores) -> f32 {
    let largest = L::load(&scores[0]).max(L::load(&scores[1]));
    -(L::splat(0.0) - largest).smallest()
}

/// Products of queries with all keys of a tile, two queries at a time where registers hold their sums.
#[inline(always)]
pub(super) fn multiply_in_pairs<L: Lanes>(queries: &[Columns], keys: &[Columns], parts: &mut [Part]) {
    let width = queries.len() / parts.len();
    let paired = if holds_pairs::<L>() { parts.len() / 2 * 2 } else { 0 };
    let (pairs, singles) = parts.split_at_mut(paired);
    let (pair_queries, single_queries) = queries.split_at(paired * width);
    for (parts, queries) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(pair_queries.chunks_exact(2 * width))
    {
        multiply::<L, 2>(queries, keys, parts);
    }
    for (parts, queries) in singles.as_chunks_mut::<1>().0.iter_mut().zip(single_queries.chunks_exact(width))
    {
        multiply::<L, 1>(queries, keys, parts);
    }
}

/// Products of `N` queries with all keys of a tile.
#[inline(always)]
fn multiply<L: Lanes, const N: usize>(queries: &[Columns], keys: &[Columns], parts: &mut [Part; N]) {
    for (i, keys) in keys.chunks_exact(queries.len() / N * TOGETHER).enumerate() {
        let sums = products::<L, N>(queries, keys);
        for (part, sums) in parts.iter_mut().zip(sums) {
            part.scores.as_flattened_mut().as_chunks_mut().0[i] = L::sums(sums);
        }
    }
}

/// Sums that run at once for a query: as many as hide the time that an addition takes.
const TOGETHER: usize = 8;

/// Whether registers hold the sums of two queries.
#[inline(always)]
fn holds_pairs<L: Lanes>() -> bool {
    L::REGISTERS >= 2 * TOGETHER
}

/// `N` queries times keys that follow each other, in sixteen sums each.
#[inline(always)]
fn products<L: Lanes, const N: usize>(queries: &[Columns], keys: &[Columns]) -> [[L; TOGETHER]; N] {
    let width = queries.len() / N;
    assert!(queries.len() == N * width && keys.len() == TOGETHER * width);
    let mut sums = [[L::splat(0.0); TOGETHER]; N];
    for at in 0..width {
        for k in 0..TOGETHER {
            // SAFETY: inside, as asserted; checks here would keep the sums out of registers.
            unsafe {
                let key = L::load(keys.get_unchecked(k * width + at));
                for (n, sums) in sums.iter_mut().enumerate() {
                    sums[k] = L::load(queries.get_unchecked(n * width + at)).multiply_add(key, sums[k]);
                }
            }
        }
    }
    sums
}

/// Adds the weighted values of a tile to the sums, likewise; queries of a pair see the same positions.
#[inline(always)]
pub(super) fn add_in_pairs<L: Lanes>(parts: &[Part], values: &[Columns], sums: &mut [Columns]) {
    let (width, len) = (values.len() / TILE, sums.len() / parts.len());
    let mut at = 0;
    while at < parts.len() {
        let pair = parts.get(at + 1).filter(|next| next.seen() == parts[at].seen());
        let (seen, sums) = (parts[at].seen(), &mut sums[at * len..]);
        let values = &values[seen.start * width..seen.end * width];
        match pair.filter(|_| holds_pairs::<L>()) {
            Some(next) => {
                add_values::<L, 2>([&parts[at], next], values, &mut sums[..2 * len]);
                at += 2;
            }
            None => {
                add_values::<L, 1>([&parts[at]], values, &mut sums[..len]);
                at += 1;
            }
        }
    }
}

/// `sums * shrink + weights * values` of `N` queries; the rows of the values may be wider than the sums.
#[inline(always)]
fn add_values<L: Lanes, const N: usize>(parts: [&Part; N], values: &[Columns], sums: &mut [Columns]) {
    if parts[0].seen().is_empty() {
        return;
    }
    let len = sums.len() / N;
    let mut at = 0;
    while at + TOGETHER <= len {
        add_columns::<L, N, TOGETHER>(parts, values, sums, at);
        at += TOGETHER;
    }
    if at + TOGETHER / 2 <= len {
        add_columns::<L, N, { TOGETHER / 2 }>(parts, values, sums, at);
        at += TOGETHER / 2;
    }
    while at < len {
        add_columns::<L, N, 1>(parts, values, sums, at);
        at += 1;
    }
}

/// Of the `C` columns from `at` on.
#[inline(always)]
fn add_columns<L: Lanes, const N: usize, const C: usize>(
    parts: [&Part; N],
    values: &[Columns],
    sums: &mut [Columns],
    at: usize,
) {
    let (count, len) = (parts[0].seen().len(), sums.len() / N);
    let width = values.len() / count;
    assert!(at + C <= len && len <= width && parts.iter().all(|part| part.weights().len() == count));
    let mut totals = [[L::splat(0.0); C]; N];
    for (n, totals) in totals.iter_mut().enumerate() {
        for (c, total) in totals.iter_mut().enumerate() {
            *total = L::load(&sums[n * len + at + c]) * L::splat(parts[n].shrink);
        }
    }
    for t in 0..count {
        for c in 0..C {
            // SAFETY: inside, as asserted; checks here would keep the sums out of registers.
            unsafe {
                let value = L::load(values.get_unchecked(t * width + at + c));
                for (part, totals) in parts.iter().zip(&mut totals) {
                    let weight = L::splat(*part.weights().get_unchecked(t));
                    totals[c] = weight.multiply_add(value, totals[c]);
                }
            }
        }
    }
    for (n, totals) in totals.iter().enumerate() {
        for (c, total) in totals.iter().enumerate() {
            sums[n * len + at + c] = total.store();
        }
    }
}
