//! Attention to a window and to entries on the host: rows one after the other, so that no piece of a prompt changes a bit.
//! What a row sees is gathered here; products are the backends' own ([`Look`]).

use super::super::kv_cache::KvCache;
use super::super::step::{EntriesStep, IndexStep, Pooling, Row};
use super::host::{HostBuffer, norm_piece};
use crate::kernels::{Gathered, Relevance, grow};
use crate::ops::{Rope, best, exp, rotate};
use crate::threads::Team;

/// The products of a backend.
pub(super) trait Look: Sync {
    /// What an indexer thinks of a key.
    fn relevance(&self, of: &Relevance<'_>, key: &[f32]) -> f32;
    /// One head's mixture of the keys that it sees; `scores` has room for one each.
    fn attend(&self, gathered: &Gathered<'_>, scores: &mut [f32], out: &mut [f32]);
}

/// What one row sees, kept from row to row.
#[derive(Default)]
pub(super) struct Seen {
    keys: Vec<f32>,    // (window and chosen entries, width)
    index: Vec<f32>,   // all keys of the indexer
    thought: Vec<f32>, // of each of these
    chosen: Vec<u32>,  // entries, rising
    scores: Vec<f32>,  // (heads, keys)
    entry: Vec<f32>,
    index_entry: Vec<f32>,
    angles: Vec<f32>,
}

/// Keys that a task gathers at a time, and entries that it weighs.
const TOGETHER: usize = 16;

/// The step, with the products of `look`.
pub(super) fn attend(
    (team, look): (&Team, &impl Look),
    step: &EntriesStep<'_>,
    (x, angles): (&HostBuffer, &HostBuffer),
    states: &mut [KvCache],
    (out, seen): (&mut HostBuffer, &mut Seen),
) {
    let (heads, width) = (step.queries.count, step.queries.width);
    out.resize(step.rows.len(), heads * width);
    for (i, row) in step.rows.iter().enumerate() {
        let cache = &mut states[row.sequence];
        take(step, (row, x.row(i)), cache, seen);
        let cache = &states[row.sequence];
        let entries = choose((team, look), step, (row, x.row(i)), cache, seen);
        let keys = gather(team, step, row, (cache, entries), seen);
        let count = keys.len() / width;
        room(&mut seen.scores, heads * count);
        let (keys, scores) = (&seen.keys[..count * width], &mut seen.scores[..heads * count]);
        team.each_row_pair((out.row_mut(i), width), (scores, count), 1, |head, out, scores| {
            let query = &x.row(i)[step.queries.at + head * step.queries.stride..][..width];
            let gathered = Gathered { query, keys, scale: step.scale, sink: step.sinks[head] };
            look.attend(&gathered, scores, out);
        });
        turn_back(step.rope, angles.row(i), &mut seen.angles, out.row_mut(i).chunks_exact_mut(width));
    }
}

/// Makes room for more than there is now: entries come one by one.
fn room(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        grow(buffer, len.next_power_of_two());
    }
}

/// Takes a row's key and what becomes an entry into its sequence.
fn take(step: &EntriesStep<'_>, (row, x): (&Row, &[f32]), cache: &mut KvCache, seen: &mut Seen) {
    let width = step.queries.width;
    let state = cache.state(step.layer);
    let len = state.len();
    let (window, rest) = state.split_at_mut(step.window * width);
    window[row.position % step.window * width..][..width].copy_from_slice(&x[step.key..][..width]);
    if let Some(pooling) = &step.pooling {
        let (own, of_index) = rest.split_at_mut(pooling.state_len());
        let Seen { entry, index_entry, angles, .. } = seen;
        let of_position = (row.position, step.rope);
        let is_full = pool(pooling, (x, own), of_position, (entry, angles));
        match &step.index {
            None => index_entry.clear(),
            Some(index) => _ = pool(&index.pooling, (x, of_index), of_position, (index_entry, angles)),
        }
        if is_full {
            cache.store_entry(step.layer, row.position / pooling.ratio, entry, index_entry);
        }
    }
    cache.keep(step.layer, 0..len, row.position + 1);
}

/// Takes one position's values and gates; tells whether `entry` is complete.
fn pool(
    pooling: &Pooling<'_>,
    (x, state): (&[f32], &mut [f32]),
    (position, rope): (usize, &Rope),
    (entry, angles): (&mut Vec<f32>, &mut Vec<f32>),
) -> bool {
    let Pooling { at, width, ratio, overlaps, bias, norm } = *pooling;
    let columns = pooling.columns();
    let (before, now) = state.split_at_mut(if overlaps { 2 * ratio * width } else { 0 });
    let (values, gates) = now.split_at_mut(ratio * columns);
    let (place, number) = (position % ratio, position / ratio);
    let slot = place * columns..(place + 1) * columns;
    values[slot.clone()].copy_from_slice(&x[at..at + columns]);
    let new = x[at + columns..].iter().zip(&bias[slot.clone()]);
    gates[slot].iter_mut().zip(new).for_each(|(gate, (new, bias))| *gate = new + bias);
    if place + 1 < ratio {
        return false;
    }
    entry.clear();
    entry.resize(width, 0.0);
    let own = columns - width;
    for (channel, entry) in entry.iter_mut().enumerate() {
        let slots = |all: &'_ [f32], columns: usize, at: usize, slot: usize| all[slot * columns + at];
        let earlier = if overlaps && number > 0 { ratio } else { 0 };
        let (old_values, old_gates) = before.split_at(before.len() / 2);
        let value = |i: usize| match i.checked_sub(earlier) {
            None => slots(old_values, width, channel, i),
            Some(i) => slots(values, columns, own + channel, i),
        };
        let gate = |i: usize| match i.checked_sub(earlier) {
            None => slots(old_gates, width, channel, i),
            Some(i) => slots(gates, columns, own + channel, i),
        };
        let all = 0..earlier + ratio;
        let largest = all.clone().map(gate).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for i in all {
            let share = exp(gate(i) - largest);
            sum += share;
            *entry += share * value(i);
        }
        *entry /= sum;
    }
    if overlaps {
        let (old_values, old_gates) = before.split_at_mut(ratio * width);
        for slot in 0..ratio {
            let (to, from) = (slot * width..(slot + 1) * width, slot * columns..slot * columns + width);
            old_values[to.clone()].copy_from_slice(&values[from.clone()]);
            old_gates[to].copy_from_slice(&gates[from]);
        }
    }
    norm_piece(norm, entry);
    grow(angles, rope.dims());
    let angles = &mut angles[..rope.dims()];
    rope.angles(number * ratio, angles);
    rotate(rope.style, &mut entry[width - rope.dims()..], angles);
    true
}

/// The entries that a row sees, in `seen.chosen`; how many.
fn choose(
    (team, look): (&Team, &impl Look),
    step: &EntriesStep<'_>,
    (row, x): (&Row, &[f32]),
    cache: &KvCache,
    seen: &mut Seen,
) -> usize {
    let known = step.pooling.as_ref().map_or(0, |pooling| (row.position + 1) / pooling.ratio);
    let Seen { index: keys, thought, chosen, .. } = seen;
    let Some(index) = step.index.as_ref().filter(|index| index.top_k < known) else {
        chosen.clear();
        chosen.extend(0..known as u32);
        return known;
    };
    let IndexStep { queries, weights, factor, top_k, pooling } = index;
    let width = pooling.width;
    room(keys, known * width);
    let keys = &mut keys[..known * width];
    team.each_row(keys, width, TOGETHER, |number, key| cache.index_entry(step.layer, number, key));
    let of = Relevance {
        queries: &x[queries.at..queries.end()],
        weights: &x[*weights..weights + queries.count],
        factor: *factor,
    };
    room(thought, known);
    let (keys, thought) = (&*keys, &mut thought[..known]);
    team.each_row(thought, 1, TOGETHER, |number, thought| {
        thought[0] = look.relevance(&of, &keys[number * width..][..width]);
    });
    best(thought, *top_k, chosen);
    chosen.len()
}

/// Keys of the window, the oldest first, and the chosen entries behind them.
fn gather<'s>(
    team: &Team,
    step: &EntriesStep<'_>,
    row: &Row,
    (cache, entries): (&KvCache, usize),
    seen: &'s mut Seen,
) -> &'s [f32] {
    let width = step.queries.width;
    let near = step.window.min(row.position + 1);
    let Seen { keys, chosen, .. } = seen;
    room(keys, (near + entries) * width);
    let keys = &mut keys[..(near + entries) * width];
    let (window, chosen) = (cache.state_now(step.layer), &*chosen);
    team.each_row(keys, width, TOGETHER, |number, key| match number.checked_sub(near) {
        None => {
            let place = (row.position + 1 - near + number) % step.window;
            key.copy_from_slice(&window[place * width..][..width]);
        }
        Some(entry) => cache.entry(step.layer, chosen[entry] as usize, key),
    });
    keys
}

/// Takes a row's rotation from the last columns of its heads again.
fn turn_back<'h>(
    rope: &Rope,
    angles: &[f32],
    back: &mut Vec<f32>,
    heads: impl Iterator<Item = &'h mut [f32]>,
) {
    grow(back, rope.dims());
    let back = &mut back[..rope.dims()];
    back.copy_from_slice(angles);
    back[rope.dims() / 2..].iter_mut().for_each(|sine| *sine = -*sine);
    heads.for_each(|head| {
        let at = head.len() - rope.dims();
        rotate(rope.style, &mut head[at..], back);
    });
}
