//! What both host backends share of steps that carry a state along a sequence.

use super::super::kv_cache::KvCache;
use super::super::step::{Row, ScanStep, Update, runs};
use super::host::{HostBuffer, each_row};
use crate::ops::{exp, sigmoid, softplus};
use crate::threads::Team;
use std::ops::Range;

/// Decay and strength of every row and value head, `(rows, heads, 2)`.
pub(super) fn scan_factors(team: &Team, step: &ScanStep<'_>, x: &HostBuffer, out: &mut HostBuffer) {
    let heads = step.values.count;
    out.resize(x.rows(), 2 * heads);
    each_row(team, out, |row, factors| {
        let row = x.row(row);
        for (head, factors) in factors.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let length = softplus(row[step.steps + head] + step.step_bias[head]);
            let strength = match step.update {
                Update::Delta { strengths } => sigmoid(row[strengths + head]),
                Update::Whole { .. } => length,
            };
            *factors = [exp(step.rate[head] * length), strength];
        }
    });
}

/// Walks along the sequences of a batch: `work` gets a part of a sequence's state of a layer and rows that change it one after
/// the other. What states are where they are marked is kept.
pub(super) fn along(
    rows: &[Row],
    states: &mut [KvCache],
    (layer, part): (usize, Range<usize>),
    mut work: impl FnMut(&mut [f32], Range<usize>),
) {
    for run in runs(rows) {
        let cache = &mut states[rows[run.start].sequence];
        let mut from = run.start;
        while from < run.end {
            let position = rows[from].position;
            let count = cache.until_kept(position, run.end - from);
            work(&mut cache.state(layer)[part.clone()], from..from + count);
            cache.keep(layer, part.clone(), position + count);
            from += count;
        }
    }
}
