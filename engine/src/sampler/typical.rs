//! Typical sampling: keeps the tokens whose surprise is nearest to the expected one until they have this probability
//! together (Meister et al. 2022).

use super::{Sampling, Step, Turn};

pub(super) const STEP: Step = Step {
    name: "typical-p",
    about: "keep the tokens nearest to the expected surprise that together have this probability",
    before_greedy: false,
    is_on: |sampling, _| sampling.typical_p < 1.0,
    apply,
};

fn apply(sampling: &Sampling, turn: &mut Turn) {
    let total = turn.weigh();
    if total == 0.0 {
        return;
    }
    let highest = f64::from(turn.highest());
    let log_total = libm::log(total);
    let scratch = &mut *turn.scratch;
    let surprise = |score: f32| log_total - (f64::from(score) - highest);
    let candidates =
        turn.scores.iter().zip(&scratch.weights).filter(|(score, _)| **score > f32::NEG_INFINITY);
    let expected: f64 = candidates.map(|(&score, &weight)| f64::from(weight) / total * surprise(score)).sum();
    let distance = |score: f32| (surprise(score) - expected).abs() as f32;
    scratch.ranked.clear();
    let tokens = (0u32..).zip(&*turn.scores).filter(|(_, score)| **score > f32::NEG_INFINITY);
    scratch.ranked.extend(tokens.map(|(token, &score)| (distance(score), token)));
    scratch.ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut reached = 0.0;
    let mut farthest = 0.0;
    for &(distance, token) in &scratch.ranked {
        farthest = distance;
        reached += f64::from(scratch.weights[token as usize]) / total;
        if reached >= f64::from(sampling.typical_p) {
            break;
        }
    }
    turn.exclude(|score| distance(score) > farthest);
}
