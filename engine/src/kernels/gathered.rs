//! Attention of one head over keys that were gathered, and are the values as well; and how much an indexer thinks of a key.
//! Who gathers and who chooses is not here. All keys are f32, one after the other.

use crate::ops::exp;
use crate::simd::{Isa, LANES, Lanes, Work};

/// One head's look at keys.
#[derive(Clone, Copy)]
pub(crate) struct Gathered<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) keys: &'a [f32], // (any number, width of the query)
    pub(crate) scale: f32,
    pub(crate) sink: f32,
}

/// What an indexer asks of a key: the sum over its heads of `weight * max(0, query . key)`, times a factor.
#[derive(Clone, Copy)]
pub(crate) struct Relevance<'a> {
    pub(crate) queries: &'a [f32], // (heads, width of a key)
    pub(crate) weights: &'a [f32], // (heads)
    pub(crate) factor: f32,
}

/// `out` becomes the mixture of the keys; `scores` has room for one each.
pub(crate) fn attend_gathered(isa: Isa, gathered: &Gathered<'_>, scores: &mut [f32], out: &mut [f32]) {
    isa.run(Attend { gathered: *gathered, scores, out });
}

/// How much is thought of a key.
pub(crate) fn relevance(isa: Isa, of: &Relevance<'_>, key: &[f32]) -> f32 {
    isa.run(Weigh { of: *of, key })
}

struct Attend<'a> {
    gathered: Gathered<'a>,
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Work for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { gathered: Gathered { query, keys, scale, sink }, scores, out } = self;
        let keys = keys.chunks_exact(query.len());
        let mut largest = sink;
        for (score, key) in scores.iter_mut().zip(keys.clone()) {
            *score = dot::<L>(query, key) * scale;
            largest = largest.max(*score);
        }
        let mut sum = exp(sink - largest);
        for score in scores.iter_mut() {
            *score = exp(*score - largest);
            sum += *score;
        }
        out.fill(0.0);
        for (score, key) in scores.iter().zip(keys) {
            add::<L>(*score / sum, key, out);
        }
    }
}

struct Weigh<'a> {
    of: Relevance<'a>,
    key: &'a [f32],
}

impl Work for Weigh<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let Self { of: Relevance { queries, weights, factor }, key } = self;
        let heads = queries.chunks_exact(key.len()).zip(weights);
        let parts = heads.map(|(query, weight)| weight * dot::<L>(query, key).max(0.0));
        parts.sum::<f32>() * factor
    }
}

#[inline(always)]
fn dot<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    const FOUR: usize = 4 * LANES;
    let mut sums = [L::splat(0.0); 4];
    let ((many, a), (others, b)) = (a.as_chunks::<FOUR>(), b.as_chunks::<FOUR>());
    for (a, b) in many.iter().zip(others) {
        let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(&a[i]).multiply_add(L::load(&b[i]), *sum);
        }
    }
    let ((some, a), (others, b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in some.iter().zip(others) {
        sums[0] = L::load(a).multiply_add(L::load(b), sums[0]);
    }
    let rest: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum() + rest
}

/// `out += factor * key`.
#[inline(always)]
fn add<L: Lanes>(factor: f32, key: &[f32], out: &mut [f32]) {
    let ((keys, key), (outs, out)) = (key.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    let factors = L::splat(factor);
    for (out, key) in outs.iter_mut().zip(keys) {
        *out = L::load(key).multiply_add(factors, L::load(out)).store();
    }
    out.iter_mut().zip(key).for_each(|(out, key)| *out += factor * key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    fn exact(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
    }

    #[test]
    fn heads_attend_as_loops_in_f64_do() {
        for (width, count) in [(512, 130), (100, 7), (16, 1), (20, 0)] {
            let (query, keys) = (numbers(width, 1), numbers(width * count, 2));
            let gathered = Gathered { query: &query, keys: &keys, scale: 0.7, sink: -0.25 };
            let logits: Vec<f64> =
                keys.chunks_exact(width).map(|key| exact(&query, key) * 0.7f32 as f64).collect();
            let sum = (-0.25f64).exp() + logits.iter().map(|logit| logit.exp()).sum::<f64>();
            for isa in Isa::available() {
                let (mut scores, mut out) = (vec![0.0; count], vec![9.0; width]);
                attend_gathered(isa, &gathered, &mut scores, &mut out);
                for (i, out) in out.iter().enumerate() {
                    let values = keys.chunks_exact(width).zip(&logits);
                    let expected: f64 = values.map(|(key, logit)| logit.exp() / sum * key[i] as f64).sum();
                    assert!((*out as f64 - expected).abs() < 2e-6, "{isa} {width} {i}: {out} {expected}");
                }
            }
        }
    }

    #[test]
    fn keys_are_weighed_as_loops_in_f64_do() {
        for (width, heads) in [(128, 64), (50, 3)] {
            let (queries, weights, key) = (numbers(width * heads, 3), numbers(heads, 4), numbers(width, 5));
            let parts = queries.chunks_exact(width).zip(&weights);
            let expected: f64 =
                parts.map(|(query, weight)| *weight as f64 * exact(query, &key).max(0.0)).sum::<f64>() * 0.5;
            for isa in Isa::available() {
                let of = Relevance { queries: &queries, weights: &weights, factor: 0.5 };
                let found = relevance(isa, &of, &key) as f64;
                assert!((found - expected).abs() < 2e-5, "{isa} {width}: {found} {expected}");
            }
        }
    }
}
