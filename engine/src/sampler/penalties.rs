//! Repetition penalty (Hugging Face: once for every token of prompt and answer, away from likely) and presence and
//! frequency penalties (OpenAI: by how often the answer contains a token).

use super::{Sampling, Step, Turn};

pub(super) const STEP: Step = Step {
    name: "penalties",
    about: "lower the scores of tokens that have occurred",
    before_greedy: true,
    is_on: |sampling, _| {
        sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
    },
    apply,
};

fn apply(sampling: &Sampling, turn: &mut Turn) {
    let window = sampling.repeat_window.unwrap_or(usize::MAX);
    let latest = |tokens: &'_ [u32]| tokens.len() - tokens.len().min(window);
    let (history, answer) = (&turn.history[latest(turn.history)..], &turn.answer[latest(turn.answer)..]);
    let penalty = sampling.repetition_penalty;
    let repeat = |score: f32, _| if score < 0.0 { score * penalty } else { score / penalty };
    let lower = |score, count| score - sampling.presence_penalty - sampling.frequency_penalty * count as f32;
    change(turn.scores, &mut turn.scratch.counts, history, repeat);
    change(turn.scores, &mut turn.scratch.counts, answer, lower);
}

/// Applies `to` once to the score of each token that occurs in `tokens`, with its count.
fn change(scores: &mut [f32], counts: &mut [u32], tokens: &[u32], to: impl Fn(f32, u32) -> f32) {
    let known = |token: &&u32| (**token as usize) < scores.len();
    tokens.iter().filter(known).for_each(|&token| counts[token as usize] += 1);
    for &token in tokens {
        let Some(score) = scores.get_mut(token as usize) else { continue };
        let count = std::mem::take(&mut counts[token as usize]);
        if count > 0 && score.is_finite() {
            *score = to(*score, count).clamp(f32::MIN, f32::MAX);
        }
    }
}
