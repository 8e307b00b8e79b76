//! Which path is answered by what, and what every answer has.

use super::api::openai;
use super::refusal::Refusal;
use super::{Shared, experts, page};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;

/// All routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .merge(page::routes())
        .route("/v1/moewe/experts", get(experts::watch))
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openai::document))
        .route("/v1/models", get(openai::list))
        .route("/models", get(openai::list))
        .route("/v1/models/{*name}", get(openai::one))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::complete))
        .method_not_allowed_fallback(async || Refusal::method())
        .fallback(async |request: Request| Refusal::no_route(request.uri().path()))
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets a request in, and adds to its answer what all have.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let dialect = if path.starts_with("/v1/") { "openai" } else { "native" };
    let method = request.method().clone();
    let admitted = shared.gate.admit(&method, request.uri(), request.headers());
    let origin = admitted.map(|origin| origin.map(str::to_owned));
    let (origin, mut response) = match origin {
        Err(refusal) => (None, refusal.into_response()),
        Ok(origin) if method == Method::OPTIONS => (origin, StatusCode::NO_CONTENT.into_response()),
        Ok(origin) => (origin, next.run(request).await),
    };
    shared.metrics.request(dialect, response.status().as_u16());
    let headers = response.headers_mut();
    add(headers, header::SERVER, concat!("moewe/", env!("CARGO_PKG_VERSION")));
    add(headers, header::HeaderName::from_static("x-request-id"), &openai::identifier("req"));
    add(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(origin) = origin {
        add(headers, header::ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if method == Method::OPTIONS {
            add(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
            add(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, x-api-key");
            add(headers, header::ACCESS_CONTROL_MAX_AGE, "600");
        }
    } else if method == Method::OPTIONS {
        add(headers, header::ALLOW, "GET, HEAD, POST, OPTIONS");
    }
    response
}

fn add(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refusal> {
    shared.model()?;
    if shared.is_closing() {
        return Err(Refusal::unavailable("the server is shutting down"));
    }
    Ok(Json(json!({ "status": "ok" })))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if let Some(model) = shared.model.get() {
        shared.metrics.look_at(&model.engine);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.text())
}
