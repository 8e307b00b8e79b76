//! Attention in f32: a row of the cache is a row of columns, and sums of products go across lanes.
//!
//! Every step keeps its running sums in registers; two queries share what they load.

use super::cached::{Cached, Columns, Rows};
use super::task::TILE;
use super::tile::{HALF, Numbers, Sight, TOGETHER, add_rows, holds};
use crate::simd::{LANES, Lanes};

/// Numbers as f32.
pub(super) struct Exact;

impl Numbers for Exact {
    const VALUES_PER_LANE: usize = 1;
    const KEYS_SERVE_AS_VALUES: bool = true;

    #[inline(always)]
    fn keys<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]) {
        let bytes = C::bytes(rows.width);
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(rows.width.div_ceil(LANES))) {
            C::load::<L>(&row[..bytes], &mut out.as_flattened_mut()[..rows.width]);
        }
    }

    #[inline(always)]
    fn values<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]) {
        Self::keys::<C, L>(rows, out);
    }

    /// Two queries at a time where registers hold their sums.
    #[inline(always)]
    fn multiply<L: Lanes>(queries: &[Columns], keys: &[Columns], sights: &mut [Sight]) {
        let width = queries.len() / sights.len();
        let paired = if holds::<L>(2 * TOGETHER) { sights.len() / 2 * 2 } else { 0 };
        let (pairs, singles) = sights.split_at_mut(paired);
        let (pair_queries, single_queries) = queries.split_at(paired * width);
        let pair_queries = pair_queries.chunks_exact(2 * width);
        for (sights, queries) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(pair_queries) {
            multiply::<L, 2>(queries, keys, sights);
        }
        let single_queries = single_queries.chunks_exact(width);
        for (sights, queries) in singles.as_chunks_mut::<1>().0.iter_mut().zip(single_queries) {
            multiply::<L, 1>(queries, keys, sights);
        }
    }

    /// Likewise; queries of a pair see the same positions.
    #[inline(always)]
    fn add_values<L: Lanes>(sights: &[Sight], values: &[Columns], sums: &mut [Columns]) {
        let (width, len) = (values.len() / TILE, sums.len() / sights.len());
        let mut at = 0;
        while at < sights.len() {
            let (sight, seen, sums) = (&sights[at], sights[at].seen(), &mut sums[at * len..]);
            let values = &values[seen.start * width..seen.end * width];
            match sights.get(at + 1).filter(|next| holds::<L>(2 * TOGETHER) && next.seen() == seen) {
                _ if seen.is_empty() => at += 1,
                Some(next) => {
                    let weights = [sight.weights(), next.weights()];
                    add_rows::<Self, L, 2>(
                        weights,
                        [sight.shrink, next.shrink],
                        values,
                        &mut sums[..2 * len],
                    );
                    at += 2;
                }
                None => {
                    add_rows::<Self, L, 1>([sight.weights()], [sight.shrink], values, &mut sums[..len]);
                    at += 1;
                }
            }
        }
    }

    #[inline(always)]
    fn add<L: Lanes>(sum: L, weight: L, value: L) -> L {
        weight.multiply_add(value, sum)
    }
}

/// Products of `N` queries with all keys of a tile.
#[inline(always)]
fn multiply<L: Lanes, const N: usize>(queries: &[Columns], keys: &[Columns], sights: &mut [Sight; N]) {
    let width = queries.len() / N;
    for (i, keys) in keys.chunks_exact(width * TOGETHER).enumerate() {
        let mut sums = [[L::splat(0.0); TOGETHER]; N];
        if holds::<L>(TOGETHER) {
            products::<L, N, TOGETHER>(queries, keys, &mut sums, 0);
        } else {
            let (first, second) = keys.split_at(width * HALF);
            products::<L, N, HALF>(queries, first, &mut sums, 0);
            products::<L, N, HALF>(queries, second, &mut sums, HALF);
        }
        for (sight, sums) in sights.iter_mut().zip(sums) {
            sight.scores.as_flattened_mut().as_chunks_mut().0[i] = L::sums(sums);
        }
    }
}

/// `N` queries times `K` keys that follow each other, in sixteen sums each. `first` is the first key's number among
/// [`TOGETHER`].
#[inline(always)]
fn products<L: Lanes, const N: usize, const K: usize>(
    queries: &[Columns],
    keys: &[Columns],
    out: &mut [[L; TOGETHER]; N],
    first: usize,
) {
    let width = queries.len() / N;
    assert!(queries.len() == N * width && keys.len() == K * width);
    let mut sums = [[L::splat(0.0); K]; N];
    for at in 0..width {
        for k in 0..K {
            // SAFETY: inside, as asserted; checks here would keep the sums out of registers.
            unsafe {
                let key = L::load(keys.get_unchecked(k * width + at));
                for (n, sums) in sums.iter_mut().enumerate() {
                    sums[k] = L::load(queries.get_unchecked(n * width + at)).multiply_add(key, sums[k]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        out[first..first + K].copy_from_slice(&sums);
    }
}
