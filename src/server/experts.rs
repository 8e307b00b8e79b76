//! `GET /v1/moewe/experts`: which experts are used, as it happens, for whoever watches.
//!
//! The store counts anyway, and is read without a lock; the thread that computes does not notice. Where nobody watches
//! nothing runs.

use super::Shared;
use super::api::tell::{COMMENT, NATIVE, SILENCE};
use super::refusal::Refusal;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures_util::stream::unfold;
use moewe_engine::experts::Statistics;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two events.
const PAUSE: Duration = Duration::from_millis(250);

/// Events with what was counted since the one before; nothing while nothing is computed.
#[utoipa::path(get, path = "/v1/moewe/experts", responses(
    (status = 200, description = "text/event-stream", body = Value),
    (status = 501, description = "The model has no experts", body = Value),
))]
pub(super) async fn watch(State(shared): State<Arc<Shared>>) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let start = model.engine.expert_statistics();
    let start = start.filter(|counted| counted.layers.iter().any(|layer| !layer.uses.is_empty()));
    let start = start.ok_or_else(Refusal::no_experts)?;
    // The first says what is in memory, before anything was counted.
    let first = event(&shared, &start.since(&start));
    let body = unfold((first, start, Instant::now()), move |(said, before, last)| {
        let (shared, model) = (shared.clone(), model.clone());
        async move {
            if !said.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(said)), (String::new(), before, last)));
            }
            loop {
                sleep(PAUSE).await;
                let now = model.engine.expert_statistics().filter(|_| !shared.is_closing())?;
                if (now.hits(), now.misses()) != (before.hits(), before.misses()) {
                    let text = event(&shared, &now.since(&before));
                    return Some((Ok(text.into()), (String::new(), now, Instant::now())));
                }
                if last.elapsed() >= SILENCE {
                    return Some((Ok(COMMENT.into()), (String::new(), before, Instant::now())));
                }
            }
        }
    });
    Ok(NATIVE.response(Body::from_stream(body)))
}

fn event(shared: &Shared, counted: &Statistics) -> String {
    let uses: Vec<&[u64]> = counted.layers.iter().map(|layer| layer.uses.as_slice()).collect();
    let resident = counted.layers.iter().map(|layer| layer.held.iter().map(|&held| u8::from(held)).collect());
    let resident: Vec<Vec<u8>> = resident.collect();
    let event: Value = json!({
        "step": shared.metrics.steps(),
        "layers": uses,
        "resident": resident,
        "hits": counted.hits(),
        "reads": counted.misses(),
        "bytes": counted.bytes_read,
    });
    format!("data: {event}\n\n")
}
