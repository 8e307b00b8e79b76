//! Temperature: divides the scores, so that differences grow below 1 and shrink above it.

use super::Step;

pub(super) const STEP: Step = Step {
    name: "temp",
    about: "divide the scores: below 1 bolder, above 1 more random, 0 always the best token",
    before_greedy: false,
    is_on: |sampling, _| sampling.temperature != 1.0,
    apply: |sampling, turn| {
        // Measured from the highest score, so that the smallest temperature cannot overflow.
        let highest = turn.highest();
        if highest > f32::NEG_INFINITY {
            let scale = |score: f32| (score - highest) / sampling.temperature;
            turn.scores.iter_mut().for_each(|score| *score = scale(*score));
            if let Some(rest) = &mut turn.rest {
                rest.bound = scale(rest.bound);
            }
        }
    },
};
