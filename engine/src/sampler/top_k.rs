//! Top-k: keeps the k highest scores, and with them all that equal the last one.

use super::{Sampling, Step, Turn};

pub(super) const STEP: Step = Step {
    name: "top-k",
    about: "keep the best k tokens",
    before_greedy: false,
    is_on: |sampling| sampling.top_k > 0,
    apply,
};

fn apply(sampling: &Sampling, turn: &mut Turn) {
    let k = sampling.top_k as usize;
    if k >= turn.scores.len() {
        return;
    }
    let scores = &mut turn.scratch.weights;
    scores.clear();
    scores.extend_from_slice(turn.scores);
    let (_, &mut last, _) = scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    turn.exclude(|score| score < last);
}
