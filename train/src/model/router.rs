//! Which experts a token goes to, with the router's losses and their gradients. Works on the host in f64: the scores
//! are few, everything else depends on them, and the products of the experts need the counts there anyway.
//!
//! Sources: top-k gating with noise, Shazeer et al. 2017; load balance and capacity, Fedus et al. 2021; z-loss, Zoph et
//! al. 2022.

use super::config::{Balance, Experts};
use crate::ops::{Dispatch, Groups};
use rayon::prelude::*;

/// Makes the means over all ranks of the numbers it is given.
pub type Average<'a> = dyn Fn(&mut [f64]) -> crate::Result<()> + Sync + 'a;

const DROPPED: u32 = u32::MAX;

/// How the tokens of one layer spread over its experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertLoad {
    /// Which layer.
    pub layer: usize,
    /// Tokens per expert, without dropped ones.
    pub counts: Vec<u64>,
    /// Choices that found no slot.
    pub dropped: u64,
    /// Mean entropy of the router's probabilities, in nats.
    pub entropy: f64,
}

impl ExpertLoad {
    /// The load of no tokens, for the same experts.
    pub(super) fn zero(&self) -> Self {
        Self { layer: self.layer, counts: vec![0; self.counts.len()], ..Self::default() }
    }

    /// Adds the counts of another batch, and `share` of its entropy.
    pub(super) fn add(&mut self, other: &Self, share: f64) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.dropped += other.dropped;
        self.entropy += share * other.entropy;
    }
}

/// The choices of one layer for N tokens, and what their backward needs.
pub(super) struct Routing {
    pub(super) dispatch: Dispatch,
    pub(super) groups: Groups,
    pub(super) weights: Vec<f64>, // (slots)
    pub(super) router_z: f64,     // unscaled
    pub(super) load: ExpertLoad,
    pub(super) spread: Spread,
    real: Vec<bool>,         // (N), whether a row is a token at all; empty: all of them
    normalised: bool,        // whether a token's shares add up to 1
    chosen: Vec<u32>,        // (N, k), best first
    shares: Vec<f64>,        // (N, k), softmax over the chosen, or over all
    slots: Vec<u32>,         // (N, k), or DROPPED
    probabilities: Vec<f64>, // (N, E), softmax over all
    log_sums: Vec<f64>,      // (N)
}

/// What the load-balance loss knows of the tokens of one layer, or of several together.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    fractions: Vec<f64>, // (E): choices per token, or shares of all choices; without dropped ones
    probabilities: Vec<f64>, // (E), sums over the tokens
    tokens: f64,         // a mean over ranks
}

impl Spread {
    /// Of one layer by itself: `counts (E)` of `choices`, and probabilities `(E)` summed over its `tokens`.
    fn of_layer(
        counts: &[u64],
        (probabilities, tokens): (Vec<f64>, usize),
        choices: usize,
        average: &Average<'_>,
    ) -> crate::Result<Self> {
        let mut fractions: Vec<f64> = counts.iter().map(|&n| n as f64 / choices.max(1) as f64).collect();
        average(&mut fractions)?;
        Ok(Self { fractions, probabilities, tokens: tokens as f64 })
    }

    /// Of all of `layers`, of which none has been averaged.
    pub(super) fn together(layers: &[Self], average: &Average<'_>) -> crate::Result<Self> {
        let count = layers.first().map_or(0, |layer| layer.fractions.len());
        let (mut numbers, mut probabilities) = (vec![0.0; 1 + count], vec![0.0; count]);
        for Self { fractions, probabilities: own, tokens } in layers {
            numbers[0] += tokens;
            numbers[1..].iter_mut().zip(fractions).for_each(|(sum, share)| *sum += share * tokens);
            probabilities.iter_mut().zip(own).for_each(|(sum, p)| *sum += p);
        }
        average(&mut numbers)?;
        let tokens = numbers[0];
        let fractions = numbers[1..].iter().map(|count| count / tokens.max(1.0)).collect();
        Ok(Self { fractions, probabilities, tokens })
    }

    /// The unscaled loss.
    pub(super) fn loss(&self) -> f64 {
        let products =
            self.fractions.iter().zip(&self.probabilities).map(|(f, p)| f * p / self.tokens.max(1.0));
        products.sum::<f64>() * self.fractions.len() as f64
    }
}

impl Routing {
    /// Routes by `scores (N, E)`; rows that are not `real` go nowhere and count nowhere. The fractions in the
    /// load-balance loss are averaged over ranks by `average`, so that several ranks have the loss of one with all their
    /// tokens.
    pub(super) fn new(
        experts: &Experts,
        scores: &[f64],
        real: Option<&[bool]>,
        average: &Average<'_>,
    ) -> crate::Result<Self> {
        let (count, used) = (experts.count, experts.used);
        let rows = scores.len() / count;
        let (mut chosen, mut shares) = (vec![0; rows * used], vec![0.0; rows * used]);
        let (mut probabilities, mut log_sums) = (scores.to_vec(), vec![0.0; rows]);
        let by_row = (chosen.par_chunks_mut(used), shares.par_chunks_mut(used));
        let all = (by_row, (probabilities.par_chunks_mut(count), &mut log_sums));
        all.into_par_iter().for_each(|((chosen, shares), (row, log_sum))| {
            top(row, chosen, shares);
            *log_sum = softmax(row);
            match experts.normalised {
                true => drop(softmax(shares)),
                false => shares.iter_mut().zip(&*chosen).for_each(|(share, &e)| *share = row[e as usize]),
            }
        });
        let capacity = experts.capacity.map_or(usize::MAX, |factor| capacity(factor, used, rows, count));
        let real = real.map(<[bool]>::to_vec).unwrap_or_default();
        let is_real = |n: usize| real.is_empty() || real[n];
        let (slots, counts, dropped) = assign(&chosen, used, count, (capacity, &is_real));
        let tokens = (0..rows).filter(|&n| is_real(n)).count();
        let sum = |value: &dyn Fn(usize) -> f64| (0..rows).filter(|&n| is_real(n)).map(value).sum::<f64>();
        let sums: Vec<f64> = (0..count).map(|e| sum(&|n| probabilities[n * count + e])).collect();
        let router_z = sum(&|n| log_sums[n] * log_sums[n]) / tokens.max(1) as f64;
        let surprise = |p: &f64| if *p > 0.0 { -p * p.ln() } else { 0.0 };
        let entropy = sum(&|n| probabilities[n * count..][..count].iter().map(surprise).sum());
        // Where layers are counted together, they are averaged together, too.
        let spread = match experts.balance {
            Balance::PerLayer => Spread::of_layer(&counts, (sums, tokens), tokens * used, average)?,
            Balance::AllLayers => Spread::of_layer(&counts, (sums, tokens), tokens, &|_| Ok(()))?,
        };
        let load = ExpertLoad { layer: 0, counts, dropped, entropy: entropy / tokens.max(1) as f64 };
        let mut routing = Self {
            dispatch: Dispatch::default(),
            groups: Groups(starts(&load.counts)),
            weights: vec![],
            router_z,
            load,
            spread,
            real,
            normalised: experts.normalised,
            chosen,
            shares,
            slots,
            probabilities,
            log_sums,
        };
        routing.fill_slots(rows, used);
        Ok(routing)
    }

    /// Turns ranks within experts into slots, side by side per expert, and notes what each slot holds.
    fn fill_slots(&mut self, rows: usize, used: usize) {
        let total = *self.groups.0.last().unwrap_or(&0);
        let mut held = vec![0; total];
        self.weights = vec![0.0; total];
        for (i, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| **slot != DROPPED) {
            *slot += self.groups.0[self.chosen[i] as usize] as u32;
            held[*slot as usize] = (i / used) as u32;
            self.weights[*slot as usize] = self.shares[i];
        }
        self.dispatch = Dispatch::new(held, rows);
    }

    /// Gradients of the scores `(N, E)`, given those of the slots' weights, the factors of the two losses, and what the
    /// load balance counts together where that is more than this layer.
    pub(super) fn backward(
        &self,
        slopes: &[f64],
        (load_balance, router_z): (f64, f64),
        together: Option<&Spread>,
    ) -> Vec<f64> {
        let spread = together.unwrap_or(&self.spread);
        let count = spread.fractions.len();
        let rows = self.log_sums.len();
        let used = self.chosen.len() / rows.max(1);
        let balance = load_balance * count as f64 / spread.tokens.max(1.0);
        let z = 2.0 * router_z / self.spread.tokens.max(1.0);
        let mut out = vec![0.0; rows * count];
        out.par_chunks_mut(count).enumerate().for_each(|(n, out)| {
            if !self.real.is_empty() && !self.real[n] {
                return;
            }
            let probabilities = &self.probabilities[n * count..][..count];
            let level: f64 = probabilities.iter().zip(&spread.fractions).map(|(p, f)| p * f).sum();
            for ((out, &p), &f) in out.iter_mut().zip(probabilities).zip(&spread.fractions) {
                *out = p * (balance * (f - level) + z * self.log_sums[n]);
            }
            let own = n * used..(n + 1) * used;
            let slope = |i: usize| match self.slots[i] {
                DROPPED => 0.0,
                slot => slopes[slot as usize],
            };
            let level: f64 = own.clone().map(|i| self.shares[i] * slope(i)).sum();
            for i in own {
                let own = if self.normalised { slope(i) - level } else { slope(i) };
                out[self.chosen[i] as usize] += self.shares[i] * own;
            }
            if !self.normalised {
                out.iter_mut().zip(probabilities).for_each(|(out, p)| *out -= p * level);
            }
        });
        out
    }
}

/// Slots per expert for `rows` tokens: even, at least 2.
fn capacity(factor: f64, used: usize, rows: usize, count: usize) -> usize {
    let slots = (used as f64 * factor * rows as f64 / count as f64).floor() as usize;
    (slots + slots % 2).max(2)
}

/// The largest scores of a row, the lower index first among equals, with their indices.
fn top(row: &[f64], chosen: &mut [u32], scores: &mut [f64]) {
    scores.fill(f64::NEG_INFINITY);
    for (e, &score) in row.iter().enumerate() {
        let place = scores.iter().position(|&other| score > other);
        if let Some(place) = place {
            scores[place..].rotate_right(1);
            chosen[place..].rotate_right(1);
            (scores[place], chosen[place]) = (score, e as u32);
        }
    }
}

/// Probabilities in place; returns the logarithm of the sum of the powers.
fn softmax(row: &mut [f64]) -> f64 {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let total: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= total);
    largest + total.ln()
}

/// The rank of every choice of a real row within its expert, first choices of all tokens before second ones; tokens per
/// expert; and how many choices came too late.
fn assign(
    chosen: &[u32],
    used: usize,
    count: usize,
    (capacity, is_real): (usize, &dyn Fn(usize) -> bool),
) -> (Vec<u32>, Vec<u64>, u64) {
    let (mut ranks, mut counts, mut dropped) = (vec![DROPPED; chosen.len()], vec![0u64; count], 0);
    for choice in 0..used {
        for i in (choice..chosen.len()).step_by(used).filter(|i| is_real(i / used)) {
            let taken = &mut counts[chosen[i] as usize];
            if (*taken as usize) < capacity {
                ranks[i] = *taken as u32;
                *taken += 1;
            } else {
                dropped += 1;
            }
        }
    }
    (ranks, counts, dropped)
}

fn starts(counts: &[u64]) -> Vec<usize> {
    let mut starts = vec![0];
    let mut total = 0;
    starts.extend(counts.iter().map(|&count| {
        total += count as usize;
        total
    }));
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_follows_the_original() {
        for (rows, expected) in
            [(1, 2), (9, 2), (10, 4), (16, 6), (32, 10), (100, 32), (512, 160), (2048, 640)]
        {
            assert_eq!(capacity(1.25, 2, rows, 8), expected, "{rows} tokens");
        }
        assert_eq!(capacity(1.25, 2, 64, 32), 6);
    }

    #[test]
    fn first_choices_of_later_tokens_go_before_second_choices() {
        // Three tokens, all with expert 0 among their choices; the slots of expert 0 are two.
        let (ranks, counts, dropped) = assign(&[1, 0, 0, 1, 0, 1], 2, 2, (2, &|_| true));
        assert_eq!(ranks, [0, DROPPED, 0, 1, 1, DROPPED]);
        assert_eq!((counts, dropped), (vec![2, 2], 2));
    }

    #[test]
    fn the_largest_scores_come_first_and_ties_keep_their_order() {
        let (mut chosen, mut scores) = ([0; 3], [0.0; 3]);
        top(&[0.5, 2.0, 0.5, -1.0, 2.0], &mut chosen, &mut scores);
        assert_eq!((chosen, scores), ([1, 4, 0], [2.0, 2.0, 0.5]));
    }
}
