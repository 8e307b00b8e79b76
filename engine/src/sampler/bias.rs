//! Logit bias: a number added to the scores of single tokens.

use super::Step;

pub(super) const STEP: Step = Step {
    name: "logit-bias",
    about: "add a number to the score of single tokens",
    before_greedy: true,
    is_on: |sampling, _| !sampling.logit_bias.is_empty(),
    apply: |sampling, turn| {
        for &(token, bias) in &sampling.logit_bias {
            if let Some(score) = turn.scores.get_mut(token as usize) {
                *score = (*score + bias).min(f32::MAX);
            }
        }
    },
};
