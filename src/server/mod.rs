//! Many conversations with one model over HTTP: `scheduler/` computes, `api/` speaks, the files here stand between.
//!
//! HTTP lives on one thread, the scheduler on another; a request is made of tokens before it is handed over, so that
//! nothing but the model's own work delays a step.

mod api;
mod ask;
mod body;
mod chat;
mod document;
mod experts;
mod format;
mod gate;
mod health;
mod interface;
mod listen;
mod messages;
mod metrics;
mod model;
mod page;
mod refusal;
mod routes;
mod scheduler;
mod socket;
mod tools;
mod usage;

pub(crate) use api::ollama::Pulls;
pub(crate) use listen::Server;
pub(crate) use model::Dialect;
pub(crate) use scheduler::Limits;
pub(crate) use socket::Address;

use crate::pull::hex;
use gate::Gate;
use metrics::Metrics;
use model::Model;
use refusal::Refusal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What a person wants of a server.
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    /// Requests that may wait.
    pub(crate) queue: usize,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) request_timeout: Option<Duration>,
    /// Bytes of a body.
    pub(crate) max_body: usize,
    /// Most tokens of an answer, whatever is asked for.
    pub(crate) tokens_limit: Option<usize>,
    /// How long answers go on after the signal to end.
    pub(crate) grace: Duration,
    /// Names of the model.
    pub(crate) aliases: Vec<String>,
    /// Whether other names are refused.
    pub(crate) strict_model: bool,
    pub(crate) keys: Vec<String>,
    pub(crate) origins: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) metrics_are_open: bool,
    /// What is said where Ollama's clients ask for a version.
    pub(crate) ollama_version: String,
    /// Where clients may pull models to, if they may.
    pub(crate) pulls: Option<Pulls>,
    /// Whether browsers get a page.
    pub(crate) page: bool,
}

impl Settings {
    /// Requests that are computed or wait.
    fn places(&self) -> usize {
        self.limits.parallel + self.queue
    }
}

/// What all requests share.
struct Shared {
    settings: Settings,
    gate: Gate,
    metrics: Arc<Metrics>,
    /// One for each that is computed or waits.
    places: Arc<Semaphore>,
    model: OnceLock<Arc<Model>>,
    is_closing: AtomicBool,
}

impl Shared {
    /// The model, as soon as it is loaded.
    fn model(&self) -> Result<&Arc<Model>, Refusal> {
        self.model.get().ok_or_else(|| Refusal::unavailable("Loading model"))
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }
}
