//! What looks after a server asks for: whether it can be asked, and its figures.

use super::Shared;
use super::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether it can be asked.
#[utoipa::path(get, path = "/health", responses(
    (status = 200, description = "It can", body = Value),
    (status = 503, description = "The model is loading, or the server ends", body = Value),
))]
pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refusal> {
    shared.model()?;
    if shared.is_closing() {
        return Err(Refusal::unavailable("the server is shutting down"));
    }
    Ok(Json(json!({ "status": "ok" })))
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Text of version 0.0.4", body = String)))]
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if let Some(model) = shared.model.get() {
        shared.metrics.look_at(&model.engine);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.text())
}
