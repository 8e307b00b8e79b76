//! Top-k: keeps the k highest scores, and with them all that equal the last one.

use super::{CHUNK, Sampling, Step, Turn, highest};

pub(super) const STEP: Step = Step {
    name: "top-k",
    about: "keep the best k tokens",
    before_greedy: false,
    is_on: |sampling, _| sampling.top_k > 0,
    apply,
};

fn apply(sampling: &Sampling, turn: &mut Turn) {
    let k = sampling.top_k as usize;
    turn.rest = None; // there are k scores at least
    if k >= turn.scores.len() {
        return;
    }
    // The k-th best of the chunks' best scores: at least k scores reach it, so the k-th best of all does.
    let found = &mut turn.scratch.weights;
    found.clear();
    found.extend(turn.scores.chunks(CHUNK).map(highest));
    let bound = if k <= found.len() { nth_best(found, k) } else { f32::NEG_INFINITY };
    found.clear();
    found.extend(turn.scores.iter().copied().filter(|&score| score >= bound));
    let last = nth_best(found, k);
    turn.exclude(|score| score < last);
}

fn nth_best(scores: &mut [f32], k: usize) -> f32 {
    *scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}
