//! Top-p: drops the least likely tokens as long as they have at most 1 - p together (Holtzman et al. 2019).
//!
//! Weights are summed in buckets by size, and only the bucket in which the limit lies is sorted: exact, and the cost
//! of a sort over the whole vocabulary is spared.

use super::{CHUNK, Sampling, Step, Turn};

pub(super) const STEP: Step = Step {
    name: "top-p",
    about: "keep the best tokens that together have this probability",
    before_greedy: false,
    is_on: |sampling, _| sampling.top_p < 1.0,
    apply,
};

/// Buckets are 32 steps per power of two.
const SHIFT: u32 = 18;
const BUCKETS: usize = bucket(1.0) + 1;

/// The bucket of a weight from 0 to 1; it grows with the weight.
const fn bucket(weight: f32) -> usize {
    (weight.to_bits() >> SHIFT) as usize
}

fn apply(sampling: &Sampling, turn: &mut Turn) {
    let known = turn.weigh();
    // Those that are not among the scores are the least likely ones: they go first, or some of them stay.
    let rest = turn.rest.as_ref().map_or(0.0, |rest| (f64::from(rest.total) - known).max(0.0));
    let total = known + rest;
    let tail = (1.0 - f64::from(sampling.top_p)) * total;
    if rest > tail {
        return;
    }
    turn.rest = None;
    let scratch = &mut *turn.scratch;
    // Weights below this are not more than the tail even if all are: most tokens leave without being looked at again.
    let least = (tail / scratch.weights.len().max(1) as f64) as f32 * 0.999;
    let mut dropped = rest + scratch.weights.chunks(CHUNK).map(|chunk| sum_below(chunk, least)).sum::<f64>();
    scratch.ranked.clear();
    let tokens = (0u32..).zip(&scratch.weights).filter(|(_, weight)| **weight >= least);
    scratch.ranked.extend(tokens.map(|(token, &weight)| (weight, token)));
    scratch.masses.clear();
    scratch.masses.resize(BUCKETS, 0.0);
    scratch.ranked.iter().for_each(|&(weight, _)| scratch.masses[bucket(weight)] += f64::from(weight));
    let mut limit = 0;
    while limit + 1 < BUCKETS && dropped + scratch.masses[limit] <= tail {
        dropped += scratch.masses[limit];
        limit += 1;
    }
    let least = f32::from_bits((limit as u32) << SHIFT).max(least);
    for (score, &weight) in turn.scores.iter_mut().zip(&scratch.weights) {
        *score = if weight < least { f32::NEG_INFINITY } else { *score };
    }
    // Of equal weights the higher ids are dropped first.
    scratch.ranked.retain(|&(weight, _)| bucket(weight) == limit);
    scratch.ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let droppable =
        if limit + 1 == BUCKETS { scratch.ranked.len().saturating_sub(1) } else { scratch.ranked.len() };
    for &(weight, token) in &scratch.ranked[..droppable] {
        dropped += f64::from(weight);
        if dropped > tail {
            break;
        }
        turn.scores[token as usize] = f32::NEG_INFINITY;
    }
}

/// The sum of the weights below `least`.
fn sum_below(weights: &[f32], least: f32) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    for chunk in weights.chunks(LANES) {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += if weight < least { weight } else { 0.0 };
        }
    }
    f64::from(lanes.iter().sum::<f32>())
}
