//! What one tile of keys and values is to a query: the positions it sees, its scores and weights, in a running softmax,
//! and the weighted sum of the values.

use super::cached::{Cached, Columns, Rows};
use super::task::{AttentionTask, BLOCK, TILE};
use crate::ops::exp_of_negatives;
use crate::simd::{LANES, Lanes};
use std::ops::Range;

/// A query's products with a tile's keys.
pub(super) type Scores = [Columns; TILE / LANES];

/// What one query has to do with a tile.
#[derive(Clone, Copy, Default)]
pub(super) struct Sight {
    /// The positions of the tile that it sees.
    from: usize,
    to: usize,
    /// Its products with the keys, then the weights of the values.
    pub(super) scores: Scores,
    /// Factor on the sums so far.
    pub(super) shrink: f32,
}

impl Sight {
    /// Begins with the tile at `start`; scores are still to come.
    #[inline(always)]
    pub(super) fn begin(&mut self, task: &AttentionTask<'_>, position: usize, start: usize) {
        self.to = (position + 1).saturating_sub(start).min(TILE);
        self.from = task.first_seen(position).saturating_sub(start).min(self.to);
        self.shrink = 1.0;
    }

    #[inline(always)]
    pub(super) fn seen(&self) -> Range<usize> {
        self.from..self.to
    }

    /// Takes the largest score off all, of what it saw before, too; what it does not see becomes nothing.
    #[inline(always)]
    fn compare<L: Lanes>(&mut self, largest_so_far: f32) -> f32 {
        if self.seen() != (0..TILE) {
            let scores = self.scores.as_flattened_mut();
            scores[..self.from].fill(f32::NEG_INFINITY);
            scores[self.to..].fill(f32::NEG_INFINITY);
        }
        let largest = largest::<L>(&self.scores).max(largest_so_far);
        for scores in &mut self.scores {
            *scores = (L::load(scores) - L::splat(largest)).store();
        }
        largest
    }

    /// The weights of what it sees.
    #[inline(always)]
    pub(super) fn weights(&self) -> &[f32] {
        &self.scores.as_flattened()[self.seen()]
    }
}

/// How the numbers of a tile lie, and what queries do with them.
pub(super) trait Numbers {
    /// How many values there are in a lane.
    const VALUES_PER_LANE: usize;
    /// Whether keys lie as values do: those that are a part of them are there already.
    const KEYS_SERVE_AS_VALUES: bool;

    /// A tile's keys, out of the cache.
    fn keys<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]);

    /// A tile's values.
    fn values<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]);

    /// The scores of queries: their products with a tile's keys.
    fn multiply<L: Lanes>(queries: &[Columns], keys: &[Columns], sights: &mut [Sight]);

    /// Shrinks the sums of queries and adds a tile's values, by their weights.
    fn add_values<L: Lanes>(sights: &[Sight], values: &[Columns], sums: &mut [Columns]);

    /// Adds values, by their weights, to sums.
    fn add<L: Lanes>(sum: L, weight: L, value: L) -> L;
}

/// Turns scores into weights against the running maxima, and adds them to the running sums. Queries take every step
/// together, because each waits for the one before.
#[inline(always)]
pub(super) fn weigh<L: Lanes>(sights: &mut [Sight], running: &mut [(f32, f32)]) {
    let mut shrinks = [0.0; LANES];
    for ((sight, (largest, _)), shrink) in sights.iter_mut().zip(running.iter_mut()).zip(&mut shrinks) {
        if !sight.seen().is_empty() {
            let so_far = std::mem::replace(largest, sight.compare::<L>(*largest));
            *shrink = so_far - *largest;
        }
    }
    let shrinks = exp_of_negatives(L::load(&shrinks)).store();
    let mut sums = [L::splat(0.0); BLOCK];
    for ((sight, shrink), sum) in sights.iter_mut().zip(shrinks).zip(&mut sums) {
        if !sight.seen().is_empty() {
            for scores in &mut sight.scores {
                let weights = exp_of_negatives(L::load(scores));
                *sum = *sum + weights;
                *scores = weights.store();
            }
            sight.shrink = shrink;
        }
    }
    for ((sight, (_, sum)), new) in sights.iter().zip(running).zip(L::sums(sums)) {
        *sum = *sum * sight.shrink + new;
    }
}

#[inline(always)]
fn largest<L: Lanes>(scores: &Scores) -> f32 {
    let largest = L::load(&scores[0]).max(L::load(&scores[1]));
    -(L::splat(0.0) - largest).smallest()
}

/// Sums that run at once for a query: as many as hide the time that an addition takes.
pub(super) const TOGETHER: usize = 8;

/// The same where registers are few, of which each sum takes two.
pub(super) const HALF: usize = TOGETHER / 2;

/// Whether registers hold so many sums.
#[inline(always)]
pub(super) fn holds<L: Lanes>(sums: usize) -> bool {
    L::REGISTERS >= sums
}

/// `sums * shrink + weights * values` of `Q` queries that weigh the same rows; these may be wider than the sums.
#[inline(always)]
pub(super) fn add_rows<N: Numbers, L: Lanes, const Q: usize>(
    weights: [&[f32]; Q],
    shrinks: [f32; Q],
    values: &[Columns],
    sums: &mut [Columns],
) {
    let len = sums.len() / Q;
    let mut at = 0;
    while holds::<L>(TOGETHER) && at + TOGETHER <= len {
        add_columns::<N, L, Q, TOGETHER>(weights, shrinks, values, sums, at);
        at += TOGETHER;
    }
    while at + HALF <= len {
        add_columns::<N, L, Q, HALF>(weights, shrinks, values, sums, at);
        at += HALF;
    }
    while at < len {
        add_columns::<N, L, Q, 1>(weights, shrinks, values, sums, at);
        at += 1;
    }
}

/// Of the `C` columns from `at` on.
#[inline(always)]
fn add_columns<N: Numbers, L: Lanes, const Q: usize, const C: usize>(
    weights: [&[f32]; Q],
    shrinks: [f32; Q],
    values: &[Columns],
    sums: &mut [Columns],
    at: usize,
) {
    let (count, len) = (weights[0].len(), sums.len() / Q);
    let width = values.len() / count;
    assert!(at + C <= len && len <= width && weights.iter().all(|weights| weights.len() == count));
    let mut totals = [[L::splat(0.0); C]; Q];
    for (q, totals) in totals.iter_mut().enumerate() {
        for (c, total) in totals.iter_mut().enumerate() {
            *total = L::load(&sums[q * len + at + c]) * L::splat(shrinks[q]);
        }
    }
    for t in 0..count {
        for c in 0..C {
            // SAFETY: inside, as asserted; checks here would keep the sums out of registers.
            unsafe {
                let value = L::load(values.get_unchecked(t * width + at + c));
                for (weights, totals) in weights.iter().zip(&mut totals) {
                    totals[c] = N::add(totals[c], L::splat(*weights.get_unchecked(t)), value);
                }
            }
        }
    }
    for (q, totals) in totals.iter().enumerate() {
        for (c, total) in totals.iter().enumerate() {
            sums[q * len + at + c] = total.store();
        }
    }
}
