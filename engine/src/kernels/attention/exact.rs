//! Attention in f32: a row of the cache is a row of columns, and sums of products go across lanes.
//!
//! Every step keeps its running sums in registers; two queries share what they load.

use super::tile::Part;
use super::{Cached, CachedRows, Columns, Numbers, Rows, TILE};
use crate::simd::{LANES, Lanes};

/// Numbers as f32.
pub(super) struct Exact;

impl Numbers for Exact {
    const VALUES_PER_LANE: usize = 1;

    #[inline(always)]
    fn keys<C: Cached, L: Lanes>(rows: &CachedRows<'_>, out: &mut [Columns]) {
        load::<C, L>(&rows.keys, out);
    }

    #[inline(always)]
    fn values<C: Cached, L: Lanes>(rows: &CachedRows<'_>, out: &mut [Columns]) {
        load::<C, L>(&rows.values, out);
    }

    #[inline(always)]
    fn multiply<L: Lanes>(queries: &[Columns], keys: &[Columns], parts: &mut [Part]) {
        multiply_in_pairs::<L>(queries, keys, parts);
    }

    #[inline(always)]
    fn add_values<L: Lanes>(parts: &[Part], values: &[Columns], sums: &mut [Columns]) {
        add_in_pairs::<L>(parts, values, sums);
    }
}

#[inline(always)]
fn load<C: Cached, L: Lanes>(rows: &Rows<'_>, out: &mut [Columns]) {
    let bytes = C::bytes(rows.width);
    for (row, out) in rows.iter().zip(out.chunks_exact_mut(rows.width.div_ceil(LANES))) {
        C::load::<L>(&row[..bytes], &mut out.as_flattened_mut()[..rows.width]);
    }
}

/// Products of queries with all keys of a tile, two queries at a time where registers hold their sums.
#[inline(always)]
pub(super) fn multiply_in_pairs<L: Lanes>(queries: &[Columns], keys: &[Columns], parts: &mut [Part]) {
    let width = queries.len() / parts.len();
    let paired = if holds::<L>(2 * TOGETHER) { parts.len() / 2 * 2 } else { 0 };
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
        for (part, sums) in parts.iter_mut().zip(sums) {
            part.scores.as_flattened_mut().as_chunks_mut().0[i] = L::sums(sums);
        }
    }
}

/// Sums that run at once for a query: as many as hide the time that an addition takes.
const TOGETHER: usize = 8;

/// The same where registers are few, of which each sum takes two.
const HALF: usize = TOGETHER / 2;

/// Whether registers hold so many sums.
#[inline(always)]
fn holds<L: Lanes>(sums: usize) -> bool {
    L::REGISTERS >= sums
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

/// Adds the weighted values of a tile to the sums, likewise; queries of a pair see the same positions.
#[inline(always)]
pub(super) fn add_in_pairs<L: Lanes>(parts: &[Part], values: &[Columns], sums: &mut [Columns]) {
    let (width, len) = (values.len() / TILE, sums.len() / parts.len());
    let mut at = 0;
    while at < parts.len() {
        let pair = parts.get(at + 1).filter(|next| next.seen() == parts[at].seen());
        let (seen, sums) = (parts[at].seen(), &mut sums[at * len..]);
        let values = &values[seen.start * width..seen.end * width];
        match pair.filter(|_| holds::<L>(2 * TOGETHER)) {
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
    while holds::<L>(TOGETHER) && at + TOGETHER <= len {
        add_columns::<L, N, TOGETHER>(parts, values, sums, at);
        at += TOGETHER;
    }
    while at + HALF <= len {
        add_columns::<L, N, HALF>(parts, values, sums, at);
        at += HALF;
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
