//! What an answer took, in tokens and in time.

use crate::server::scheduler::Usage;
use serde_json::{Value, json};
use std::time::Duration;

/// The sum over the answers of a request; a prompt counts once, however often it is answered.
#[derive(Default)]
pub(super) struct Tally {
    usage: Usage,
    reasoning: usize,
}

impl Tally {
    /// Adds an answer, the first to its prompt or another one.
    pub(super) fn add(&mut self, usage: &Usage, reasoning: usize, is_first: bool) {
        let sum = &mut self.usage;
        if is_first {
            sum.prompt_tokens += usage.prompt_tokens;
            sum.cached_tokens += usage.cached_tokens;
        }
        sum.completion_tokens += usage.completion_tokens;
        sum.prompt += usage.prompt;
        sum.answer = sum.answer.max(usage.answer);
        self.reasoning += reasoning;
    }

    /// An answer with `usage` and `timings`.
    pub(super) fn added_to(&self, mut answer: Value) -> Value {
        let Usage { prompt_tokens, cached_tokens, completion_tokens, .. } = self.usage;
        answer["usage"] = json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": { "cached_tokens": cached_tokens },
            "completion_tokens_details": { "reasoning_tokens": self.reasoning },
        });
        answer["timings"] = timings(&self.usage);
        answer
    }
}

/// Counts and times with llama-server's names.
pub(super) fn timings(usage: &Usage) -> Value {
    let Usage { prompt_tokens, cached_tokens, completion_tokens, prompt, answer, .. } = *usage;
    let computed = prompt_tokens - cached_tokens;
    let each = |time: Duration, count: usize| milliseconds(time) / count.max(1) as f64;
    let rate =
        |count: usize, time: Duration| if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() };
    json!({
        "cache_n": cached_tokens,
        "prompt_n": computed,
        "prompt_ms": milliseconds(prompt),
        "prompt_per_token_ms": each(prompt, computed),
        "prompt_per_second": rate(computed, prompt),
        "predicted_n": completion_tokens,
        "predicted_ms": milliseconds(answer),
        "predicted_per_token_ms": each(answer, completion_tokens),
        "predicted_per_second": rate(completion_tokens, answer),
    })
}

/// How far a prompt has been read, with llama-server's names.
pub(super) fn progress(read: usize, usage: &Usage) -> Value {
    json!({
        "total": usage.prompt_tokens,
        "cache": usage.cached_tokens,
        "processed": read,
        "time_ms": milliseconds(usage.prompt),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
