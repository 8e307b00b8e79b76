//! Scores of a page's positions, by which rows choose those that they look at: a few small query heads meet one key per
//! position. `backend/chosen.rs` in the model finds the best of them.
//!
//! Sixteen positions are the lanes, and sums run along the columns and then along the heads, so that a score does not
//! depend on which rows are computed together.

use super::attention::CachedPages;
use crate::quant::Format;
use crate::simd::{Isa, LANES, Lanes, Work};
use std::cell::RefCell;
use std::ops::Range;

/// Positions whose keys are laid out at a time.
const TILE: usize = 2 * LANES;

/// Heads that take each column together.
const HEADS: usize = 4;

/// What the rows of one sequence ask of a page.
#[derive(Clone)]
pub(crate) struct IndexJob<'a> {
    /// Pages of keys, `(position in page, key_length)` in the cache's format.
    pub(crate) keys: CachedPages<'a>,
    /// Which of them.
    pub(crate) page: usize,
    /// Of the cache.
    pub(crate) format: &'static Format,
    /// Width of a key.
    pub(crate) key_length: usize,
    /// Joined rows.
    pub(crate) x: &'a [f32],
    /// Width of a joined row.
    pub(crate) width: usize,
    /// Which rows.
    pub(crate) rows: Range<usize>,
    /// Column of the first query head; the others follow.
    pub(crate) queries: usize,
    /// Column of the first head's weight.
    pub(crate) weights: usize,
    /// Query heads.
    pub(crate) heads: usize,
}

/// Writes `sum over heads of weight * max(0, query * key)` for every row and position of the page: `out` is `(rows,
/// positions in a page)`.
///
/// # Panics
/// When shapes do not fit.
pub(crate) fn score_page(isa: Isa, job: &IndexJob<'_>, out: &mut [f32]) {
    isa.run(Page { job, out });
}

thread_local! {
    static KEYS: RefCell<(Vec<f32>, Vec<[f32; TILE]>)> = RefCell::default();
}

struct Page<'a, 'j> {
    job: &'a IndexJob<'j>,
    out: &'a mut [f32],
}

impl Work for Page<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { job, out } = self;
        let positions = out.len() / job.rows.len();
        assert!(positions.is_multiple_of(TILE));
        let tile_bytes = TILE * job.format.row_bytes(job.key_length);
        let bytes = &job.keys.page(job.page)[..positions / TILE * tile_bytes];
        // Taken out and put back: a closure would be compiled without the caller's instructions.
        let (mut keys, mut columns) = KEYS.take();
        keys.resize(TILE * job.key_length, 0.0);
        columns.resize(job.key_length, [0.0; TILE]);
        for (tile, bytes) in bytes.chunks_exact(tile_bytes).enumerate() {
            (job.format.dequantize)(bytes, &mut keys);
            for (position, key) in keys.chunks_exact(job.key_length).enumerate() {
                key.iter().zip(&mut columns).for_each(|(value, column)| column[position] = *value);
            }
            for (row, out) in job.rows.clone().zip(out.chunks_exact_mut(positions)) {
                let x = &job.x[row * job.width..][..job.width];
                let scores = score::<L>(job, x, &columns);
                for (scores, out) in scores.iter().zip(out[tile * TILE..].chunks_exact_mut(LANES)) {
                    out.copy_from_slice(&scores.store());
                }
            }
        }
        KEYS.set((keys, columns));
    }
}

/// The scores of a tile for one row.
#[inline(always)]
fn score<L: Lanes>(job: &IndexJob<'_>, x: &[f32], columns: &[[f32; TILE]]) -> [L; 2] {
    let (queries, weights) =
        (&x[job.queries..][..job.heads * job.key_length], &x[job.weights..][..job.heads]);
    let mut scores = [L::splat(0.0); 2];
    let mut groups = queries.chunks_exact(HEADS * job.key_length);
    let mut grouped = weights.chunks_exact(HEADS);
    for (queries, weights) in (&mut groups).zip(&mut grouped) {
        add_heads::<L, HEADS>(queries, weights, columns, &mut scores);
    }
    let rest = groups.remainder().chunks_exact(job.key_length).zip(grouped.remainder().chunks_exact(1));
    for (query, weight) in rest {
        add_heads::<L, 1>(query, weight, columns, &mut scores);
    }
    scores
}

#[inline(always)]
fn add_heads<L: Lanes, const N: usize>(
    queries: &[f32],
    weights: &[f32],
    columns: &[[f32; TILE]],
    scores: &mut [L; 2],
) {
    let mut sums = [[L::splat(0.0); 2]; N];
    for (c, column) in columns.iter().enumerate() {
        let [lower, upper] = column.as_chunks().0 else { unreachable!("a tile has two halves") };
        let key = [L::load(lower), L::load(upper)];
        for (n, sums) in sums.iter_mut().enumerate() {
            let query = L::splat(queries[n * columns.len() + c]);
            *sums = [query.multiply_add(key[0], sums[0]), query.multiply_add(key[1], sums[1])];
        }
    }
    for (sums, weight) in sums.iter().zip(weights) {
        for (score, sum) in scores.iter_mut().zip(sums) {
            *score = *score + L::splat(*weight) * sum.max(L::splat(0.0));
        }
    }
}
