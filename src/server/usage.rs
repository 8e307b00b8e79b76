//! What an answer took, in tokens and time: the scheduler writes it, metrics and interfaces read it.
//!
//! How an interface says it is in `api/`.

use std::time::Duration;

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    /// Of the prompt's, those that were known.
    pub(crate) cached_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) waited: Duration,
    pub(crate) prompt: Duration,
    pub(crate) answer: Duration,
}
