//! What one tile of keys and values is to a query: the positions it sees, its scores and weights, in a running softmax.

use super::{AttentionTask, BLOCK, Columns, TILE};
use crate::ops::exp_of_negatives;
use crate::simd::{LANES, Lanes};
use std::ops::Range;

/// A query's products with a tile's keys.
pub(super) type Scores = [Columns; TILE / LANES];

/// What one query has to do with a tile.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    /// The positions of the tile that it sees.
    from: usize,
    to: usize,
    /// Its products with the keys, then the weights of the values.
    pub(super) scores: Scores,
    /// Factor on the sums so far.
    pub(super) shrink: f32,
}

impl Part {
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

/// Turns scores into weights against the running maxima, and adds them to the running sums. Queries take every step
/// together, because each waits for the one before.
#[inline(always)]
pub(super) fn weigh<L: Lanes>(parts: &mut [Part], running: &mut [(f32, f32)]) {
    let mut shrinks = [0.0; LANES];
    for ((part, (largest, _)), shrink) in parts.iter_mut().zip(running.iter_mut()).zip(&mut shrinks) {
        if !part.seen().is_empty() {
            let so_far = std::mem::replace(largest, part.compare::<L>(*largest));
            *shrink = so_far - *largest;
        }
    }
    let shrinks = exp_of_negatives(L::load(&shrinks)).store();
    let mut sums = [L::splat(0.0); BLOCK];
    for ((part, shrink), sum) in parts.iter_mut().zip(shrinks).zip(&mut sums) {
        if !part.seen().is_empty() {
            for scores in &mut part.scores {
                let weights = exp_of_negatives(L::load(scores));
                *sum = *sum + weights;
                *scores = weights.store();
            }
            part.shrink = shrink;
        }
    }
    for ((part, (_, sum)), new) in parts.iter().zip(running).zip(L::sums(sums)) {
        *sum = *sum * part.shrink + new;
    }
}

#[inline(always)]
fn largest<L: Lanes>(scores: &Scores) -> f32 {
    let largest = L::load(&scores[0]).max(L::load(&scores[1]));
    -(L::splat(0.0) - largest).smallest()
}
