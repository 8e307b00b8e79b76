//! What carries a state along a sequence: causal convolutions and linear recurrences.
//!
//! Rows come one after the other, so that a prompt has the same bits in whatever pieces it is computed. What is parallel
//! are channels and columns of a state: a task keeps its part in the first-level cache for all rows.

#[cfg(test)]
mod tests;

use super::job::{Output, Places};
use crate::ops::Activation;
use crate::simd::{Isa, LANES, Lanes, Work};
use crate::threads::{SharedSlice, Team};
use std::ops::Range;

/// Channels of a task.
const CHANNELS: usize = 256;

/// Columns of a state that lie together, and belong to one task.
pub(crate) const STATE_COLUMNS: usize = 2 * LANES;

/// Running sums over the rows of a state.
const SUMS: usize = 4;

/// One sequence's rows of a convolution.
#[derive(Clone, Copy)]
pub(crate) struct Convolution<'a> {
    /// First row.
    pub(crate) row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// `(taps, channels)`.
    pub(crate) weights: &'a [f32],
    /// `(channels)`.
    pub(crate) bias: Option<&'a [f32]>,
    /// On the sums.
    pub(crate) activation: Option<Activation>,
    /// How many there are.
    pub(crate) channels: usize,
}

/// Computes a convolution in place, where `x` has the channels. `state` has the last `taps - 1` inputs, the oldest first:
/// `(taps - 1, channels)`.
///
/// # Panics
/// When shapes do not fit.
pub(crate) fn convolve(team: &Team, isa: Isa, job: &Convolution<'_>, x: Output<'_>, state: &mut [f32]) {
    assert!(job.weights.len() >= job.channels && job.weights.len().is_multiple_of(job.channels));
    assert_eq!(state.len(), job.weights.len() - job.channels);
    let (x, state) = (x.places(job.channels), SharedSlice::new(state));
    team.run(job.channels.div_ceil(CHANNELS), |task| {
        let channels = task * CHANNELS..job.channels.min((task + 1) * CHANNELS);
        isa.run(Channels { job, x, state, channels });
    });
}

/// Some channels, of rows and state, which are this task's own.
struct Channels<'a> {
    job: &'a Convolution<'a>,
    x: Places<'a>,
    state: SharedSlice<'a, f32>,
    channels: Range<usize>,
}

impl Work for Channels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let job = self.job;
        for row in job.row..job.row + job.rows {
            // SAFETY: only `convolve` makes these, and gives no two tasks the same channels.
            let x = unsafe { self.x.slice(row as u32, self.channels.clone()) };
            for start in (0..x.len()).step_by(LANES) {
                let width = LANES.min(x.len() - start);
                let sums = self.convolved::<L>(self.channels.start + start, &x[start..start + width]);
                x[start..start + width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

impl Channels<'_> {
    /// The next of up to sixteen of the task's channels, whose inputs move on by one.
    #[inline(always)]
    fn convolved<L: Lanes>(&self, first: usize, x: &[f32]) -> [f32; LANES] {
        let job = self.job;
        assert!(self.channels.start <= first && first + x.len() <= self.channels.end);
        let history = job.weights.len() / job.channels - 1;
        let weights = |tap: usize| part(&job.weights[tap * job.channels + first..][..x.len()]);
        let bias = job.bias.map_or([0.0; LANES], |bias| part(&bias[first..first + x.len()]));
        let mut sums = L::load(&bias);
        for tap in 0..history {
            // SAFETY: the task's own channels, as asserted, of one row of the state; the reference below is to another
            // row.
            let past = unsafe { self.state.slice(tap * job.channels + first, x.len()) };
            sums = L::load(&part(past)).multiply_add(L::load(&weights(tap)), sums);
            let next: &[f32] = if tap + 1 < history {
                // SAFETY: the same channels of the next row.
                unsafe { self.state.slice((tap + 1) * job.channels + first, x.len()) }
            } else {
                x
            };
            past.copy_from_slice(next);
        }
        sums = L::load(&part(x)).multiply_add(L::load(&weights(history)), sums);
        let mut sum = sums.store();
        if let Some(activation) = job.activation {
            for value in &mut sum {
                *value = activation.apply(*value);
            }
        }
        sum
    }
}

/// Up to sixteen numbers, zeros behind them.
#[inline(always)]
fn part(values: &[f32]) -> [f32; LANES] {
    if let Ok(all) = values.try_into() {
        return all;
    }
    let mut padded = [0.0; LANES];
    padded[..values.len()].copy_from_slice(values);
    padded
}

/// How a state takes a value in.
#[derive(Clone, Copy)]
pub(crate) enum Taken {
    /// `d = strength * (v - S'k)`.
    Difference,
    /// `d = strength * v`; the output gets so many `v` besides.
    Whole(f32),
}

/// One sequence's rows of a recurrence, as `ScanStep` of the model describes it.
#[derive(Clone, Copy)]
pub(crate) struct Scan<'a> {
    /// Rows of queries, keys and values.
    pub(crate) x: &'a [f32],
    /// Columns of a row.
    pub(crate) width: usize,
    /// First row.
    pub(crate) row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Value heads.
    pub(crate) heads: usize,
    /// Columns of a query and of a key.
    pub(crate) key_length: usize,
    /// Columns of a value.
    pub(crate) value_length: usize,
    /// Per row and head the decay of the state and the strength of what comes in.
    pub(crate) factors: &'a [f32],
}

/// What one head reads.
#[derive(Clone, Copy)]
pub(crate) struct ScanHead {
    /// Column of its query.
    pub(crate) query: usize,
    /// Column of its key.
    pub(crate) key: usize,
    /// Column of its value.
    pub(crate) value: usize,
    /// How values come in.
    pub(crate) taken: Taken,
}

/// Computes all heads of a recurrence; the state is `(heads, column group, key_length, STATE_COLUMNS)`.
///
/// # Panics
/// When the state is not that of so many heads, or rows are narrower than their results.
pub(crate) fn scan(
    team: &Team,
    isa: Isa,
    job: &Scan<'_>,
    head: impl Fn(usize) -> ScanHead + Sync,
    state: &mut [f32],
    output: Output<'_>,
) {
    let groups = job.value_length.div_ceil(STATE_COLUMNS);
    assert_eq!(state.len(), job.heads * groups * job.key_length * STATE_COLUMNS);
    let (state, output) = (SharedSlice::new(state), output.places(job.heads * job.value_length));
    team.run(job.heads * groups, |task| {
        let (number, group) = (task / groups, task % groups);
        isa.run(Group { job, state, output, number, head: head(number), group });
    });
}

/// A head's columns that lie together, which are this task's own, of state and output.
struct Group<'a> {
    job: &'a Scan<'a>,
    state: SharedSlice<'a, f32>,
    output: Places<'a>,
    number: usize,
    head: ScanHead,
    group: usize,
}

impl Work for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { job, state, output, number, head, group } = self;
        let (len, groups) = (job.key_length * STATE_COLUMNS, job.value_length.div_ceil(STATE_COLUMNS));
        let first = group * STATE_COLUMNS;
        let columns = first..job.value_length.min(first + STATE_COLUMNS);
        let results = number * job.value_length + columns.start..number * job.value_length + columns.end;
        // SAFETY: only `scan` makes these, one task for each group of each head's columns.
        let state = unsafe { state.slice((number * groups + group) * len, len) };
        let state = state.as_chunks_mut::<STATE_COLUMNS>().0;
        for row in job.row..job.row + job.rows {
            let x = &job.x[row * job.width..][..job.width];
            let (query, key) = (&x[head.query..][..job.key_length], &x[head.key..][..job.key_length]);
            let value = columns_of::<L>(&x[head.value..][columns.clone()]);
            let factors = &job.factors[(row * job.heads + number) * 2..][..2];
            let (decay, strength) = (L::splat(factors[0]), L::splat(factors[1]));
            let taken = match head.taken {
                Taken::Whole(_) => value.map(|value| value * strength),
                Taken::Difference => {
                    let known = said::<L>(state, key);
                    std::array::from_fn(|i| (value[i] - known[i] * decay) * strength)
                }
            };
            let mut out = step::<L>(state, decay, taken, (key, query));
            if let Taken::Whole(skip) = head.taken {
                out = std::array::from_fn(|i| value[i].multiply_add(L::splat(skip), out[i]));
            }
            let mut all = [0.0; STATE_COLUMNS];
            for (place, out) in all.as_chunks_mut::<LANES>().0.iter_mut().zip(out) {
                *place = out.store();
            }
            // SAFETY: the results of the same columns are at no other task's places.
            let place = unsafe { output.slice(row as u32, results.clone()) };
            place.copy_from_slice(&all[..columns.len()]);
        }
    }
}

type Pair<L> = [L; STATE_COLUMNS / LANES];

#[inline(always)]
fn columns_of<L: Lanes>(values: &[f32]) -> Pair<L> {
    let mut padded = [0.0; STATE_COLUMNS];
    padded[..values.len()].copy_from_slice(values);
    lanes(&padded)
}

#[inline(always)]
fn lanes<L: Lanes>(row: &[f32; STATE_COLUMNS]) -> Pair<L> {
    let (first, second) = row.split_at(LANES);
    [part(first), part(second)].map(|half| L::load(&half))
}

#[inline(always)]
fn joined<L: Lanes>(sums: [Pair<L>; SUMS]) -> Pair<L> {
    std::array::from_fn(|i| (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]))
}

/// What the state has under a key: `S'k`.
#[inline(always)]
fn said<L: Lanes>(state: &[[f32; STATE_COLUMNS]], key: &[f32]) -> Pair<L> {
    let mut sums = [[L::splat(0.0); 2]; SUMS];
    let (rows, rest) = state.as_chunks::<SUMS>();
    let (keys, last) = key.as_chunks::<SUMS>();
    for (rows, keys) in rows.iter().zip(keys) {
        for i in 0..SUMS {
            let (row, key) = (lanes::<L>(&rows[i]), L::splat(keys[i]));
            sums[i] = [row[0].multiply_add(key, sums[i][0]), row[1].multiply_add(key, sums[i][1])];
        }
    }
    for (row, key) in rest.iter().zip(last) {
        let (row, key) = (lanes::<L>(row), L::splat(*key));
        sums[0] = [row[0].multiply_add(key, sums[0][0]), row[1].multiply_add(key, sums[0][1])];
    }
    joined(sums)
}

/// `S = decay * S + k taken'`, and `S'q` of the new one.
#[inline(always)]
fn step<L: Lanes>(
    state: &mut [[f32; STATE_COLUMNS]],
    decay: L,
    taken: Pair<L>,
    (key, query): (&[f32], &[f32]),
) -> Pair<L> {
    let mut sums = [[L::splat(0.0); 2]; SUMS];
    let (rows, rest) = state.as_chunks_mut::<SUMS>();
    let ((keys, last_keys), (queries, last_queries)) = (key.as_chunks::<SUMS>(), query.as_chunks::<SUMS>());
    let one = |row: &mut [f32; STATE_COLUMNS], key: f32, query: f32, sum: &mut Pair<L>| {
        let (old, key, query) = (lanes::<L>(row), L::splat(key), L::splat(query));
        let (halves, _) = row.as_chunks_mut::<LANES>();
        for i in 0..2 {
            let new = taken[i].multiply_add(key, old[i] * decay);
            halves[i] = new.store();
            sum[i] = new.multiply_add(query, sum[i]);
        }
    };
    for ((rows, keys), queries) in rows.iter_mut().zip(keys).zip(queries) {
        for i in 0..SUMS {
            one(&mut rows[i], keys[i], queries[i], &mut sums[i]);
        }
    }
    for ((row, key), query) in rest.iter_mut().zip(last_keys).zip(last_queries) {
        one(row, *key, *query, &mut sums[0]);
    }
    joined(sums)
}
