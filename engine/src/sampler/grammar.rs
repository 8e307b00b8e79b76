//! Grammar: only what it allows may come.

use super::Step;

pub(super) const STEP: Step = Step {
    name: "grammar",
    about: "exclude what a grammar does not allow next",
    before_greedy: true,
    is_on: |_, allowed| allowed.is_some(),
    apply: |_, turn| {
        if let Some(allowed) = turn.allowed {
            allowed.exclude_others(turn.scores);
        }
    },
};
