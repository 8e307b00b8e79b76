//! Ollama's interface: one JSON object a line, durations in nanoseconds, and nothing that writes but a pull.

pub(in crate::server) mod about;
pub(in crate::server) mod chat;
pub(in crate::server) mod generate;
mod options;
pub(in crate::server) mod pull;
mod tell;

pub(in crate::server) use about::{ps, show, tags, version};
pub(in crate::server) use chat::chat;
pub(in crate::server) use generate::generate;
pub(crate) use pull::Pulls;
pub(in crate::server) use pull::pull;

use crate::server::refusal::Refusal;

/// What would write, or needs a model of another kind.
pub(in crate::server) async fn refuse() -> Refusal {
    Refusal::not_here("this server does not do that: it has one model, which no client changes")
}

/// Tells an answer of a chat.
#[cfg(test)]
pub(in crate::server::api) fn teller(model: std::sync::Arc<crate::server::model::Model>) -> tell::Teller {
    tell::Teller::new(model, false, None)
}
