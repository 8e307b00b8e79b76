//! Attention with values in BF16, of which a lane holds two: twice the products per instruction.
//!
//! A lane of values and weights is a pair that is multiplied and added up together: positions `i` and `i + 16` of a
//! tile. Scores decide between positions, where rounding would cost more than that of the weights, which are averaged:
//! they are products in f32, of keys that are turned, so that a lane belongs to a position and nothing is added up
//! across lanes.

use super::cached::{Cached, Columns, Rows, halves};
use super::task::{BLOCK, TILE};
use super::tile::{Numbers, Sight, add_rows};
use crate::simd::{LANES, Lanes};

/// Values as pairs of BF16.
pub(super) struct Pairs;

/// Columns of the cache that are loaded at once.
const RUN: usize = 2 * LANES;

/// Columns of scores, and of a number of all keys of a tile.
const SCORES: usize = TILE / LANES;

const _: () = assert!(SCORES == 2, "weights are pairs of the two halves of a tile");

impl Numbers for Pairs {
    const VALUES_PER_LANE: usize = 2;
    const KEYS_SERVE_AS_VALUES: bool = false;

    #[inline(always)]
    fn keys<C: Cached, L: Lanes>(keys: &Rows<'_>, out: &mut [Columns]) {
        for (half, rows) in keys.bytes.chunks(LANES * keys.row_bytes).enumerate() {
            for (run, out) in out.chunks_mut(RUN * SCORES).enumerate() {
                let mut columns = [[L::splat(0.0); LANES]; 2];
                for (at, row) in rows.chunks_exact(keys.row_bytes).enumerate() {
                    [columns[0][at], columns[1][at]] = load_run::<C, L>(row, run, keys.width);
                }
                for (out, columns) in out.chunks_exact_mut(LANES * SCORES).zip(columns) {
                    for (out, keys) in out.chunks_exact_mut(SCORES).zip(L::turn(columns)) {
                        out[half] = keys.store();
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn values<C: Cached, L: Lanes>(values: &Rows<'_>, out: &mut [Columns]) {
        for (at, out) in out.chunks_exact_mut(values.width.div_ceil(LANES)).enumerate() {
            for (run, out) in out.chunks_mut(RUN / LANES).enumerate() {
                let mut pairs = [[L::splat(0.0); 2]; 2];
                for (half, row) in pairs.iter_mut().zip([values.row(at), values.row(at + LANES)]) {
                    if let Some(row) = row {
                        *half = load_run::<C, L>(row, run, values.width);
                    }
                }
                let [lower, upper] = pairs;
                for (i, out) in out.iter_mut().enumerate() {
                    *out = lower[i].pair(upper[i]).store();
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes>(queries: &[Columns], keys: &[Columns], sights: &mut [Sight]) {
        let width = queries.len() / sights.len();
        let mut at = 0;
        while at < sights.len() {
            let (queries, sights) = (&queries[at * width..], &mut sights[at..]);
            at += match sights.len() {
                8.. => scores::<L, 8>(queries, keys, sights),
                4.. => scores::<L, 4>(queries, keys, sights),
                2.. => scores::<L, 2>(queries, keys, sights),
                _ => scores::<L, 1>(queries, keys, sights),
            }
        }
    }

    #[inline(always)]
    fn add_values<L: Lanes>(sights: &[Sight], values: &[Columns], sums: &mut [Columns]) {
        let len = sums.len() / sights.len();
        let mut weights = [[0.0; LANES]; BLOCK];
        for (weights, sight) in weights.iter_mut().zip(sights) {
            if !sight.seen().is_empty() {
                *weights = L::load(&sight.scores[0]).pair(L::load(&sight.scores[1])).store();
            }
        }
        for (at, sums) in (0..sights.len()).step_by(2).zip(sums.chunks_mut(2 * len)) {
            match &sights[at..] {
                [one, other, ..] => {
                    let (weights, shrinks) =
                        ([&weights[at][..], &weights[at + 1]], [one.shrink, other.shrink]);
                    add_rows::<Self, L, 2>(weights, shrinks, values, sums);
                }
                _ => add_rows::<Self, L, 1>([&weights[at]], [sights[at].shrink], values, sums),
            }
        }
    }

    #[inline(always)]
    fn add<L: Lanes>(sum: L, weight: L, value: L) -> L {
        sum.add_pairs(weight, value)
    }
}

/// A run of a cached row that is `width` wide, filled up with zeros.
#[inline(always)]
fn load_run<C: Cached, L: Lanes>(row: &[u8], run: usize, width: usize) -> [L; 2] {
    let (start, end) = (run * RUN, width.min((run + 1) * RUN));
    let bytes = &row[C::bytes(start)..C::bytes(end)];
    if end - start == RUN {
        return C::load_run::<L>(bytes);
    }
    let mut numbers = [0.0; RUN];
    C::load::<L>(bytes, &mut numbers[..end - start]);
    halves(&numbers)
}

/// The scores of `N` queries. Returns how many they are.
#[inline(always)]
fn scores<L: Lanes, const N: usize>(queries: &[Columns], keys: &[Columns], sights: &mut [Sight]) -> usize {
    let width = keys.len() / SCORES;
    let queries = queries.as_flattened();
    assert!(queries.len() >= N * width && sights.len() >= N);
    let mut sums = [[L::splat(0.0); SCORES]; N];
    for at in 0..width {
        for half in 0..SCORES {
            // SAFETY: inside, as asserted; checks here would keep the sums out of registers.
            unsafe {
                let keys = L::load(keys.get_unchecked(at * SCORES + half));
                for (n, sums) in sums.iter_mut().enumerate() {
                    let query = L::splat(*queries.get_unchecked(n * width + at));
                    sums[half] = query.multiply_add(keys, sums[half]);
                }
            }
        }
    }
    for (sight, sums) in sights.iter_mut().zip(sums) {
        for (scores, sum) in sight.scores.iter_mut().zip(sums) {
            *scores = sum.store();
        }
    }
    N
}
