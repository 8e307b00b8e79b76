//! Min-p: keeps tokens with at least this part of the best token's probability (Nguyen et al. 2024).

use super::Step;

pub(super) const STEP: Step = Step {
    name: "min-p",
    about: "keep tokens with at least this part of the best one's probability",
    before_greedy: false,
    is_on: |sampling, _| sampling.min_p > 0.0,
    apply: |sampling, turn| {
        let lowest = turn.highest() + libm::logf(sampling.min_p);
        turn.exclude(|score| score < lowest);
        turn.rest = turn.rest.take().filter(|rest| lowest < rest.bound);
    },
};
