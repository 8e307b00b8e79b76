//! Which path is answered by what, and what every answer has.

use super::api::{RequestId, anthropic, identifier, native, ollama, openai};
use super::body::hear_out;
use super::document::document;
use super::health::{health, metrics};
use super::interface::Interface;
use super::refusal::Refusal;
use super::{Shared, experts, page};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use std::sync::Arc;

/// All routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let own = Router::new()
        .merge(page::routes())
        .route("/v1/moewe/experts", get(experts::watch))
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(document));
    own.merge(of_openai())
        .merge(of_anthropic())
        .merge(of_ollama())
        .merge(of_native())
        .method_not_allowed_fallback(async || Refusal::method())
        .fallback(async |request: Request| Refusal::no_route(request.uri().path()))
        .layer(from_fn_with_state(shared.clone(), guard))
        .layer(from_fn(hear_out))
        .with_state(shared)
}

type Routes = Router<Arc<Shared>>;

fn of_openai() -> Routes {
    Router::new()
        .route("/v1/models", get(openai::list))
        .route("/models", get(openai::list))
        .route("/v1/models/{*name}", get(openai::one))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/chat/completions", post(openai::chat))
        .route("/v1/chat/completions/input_tokens", post(openai::count_chat))
        .route("/chat/completions/input_tokens", post(openai::count_chat))
        .route("/v1/completions", post(openai::complete))
        .route("/v1/responses", post(openai::respond))
        .route("/responses", post(openai::respond))
        .route("/v1/responses/input_tokens", post(openai::count_response))
        .route("/responses/input_tokens", post(openai::count_response))
        .route("/v1/embeddings", post(openai::embed))
}

fn of_anthropic() -> Routes {
    Router::new()
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count))
}

fn of_ollama() -> Routes {
    let routes = Router::new()
        .route("/api/version", get(ollama::version))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::ps))
        .route("/api/show", post(ollama::show))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/pull", post(ollama::pull));
    let refused = ["create", "copy", "delete", "push", "blobs/{digest}", "embed", "embeddings"];
    refused.iter().fold(routes, |routes, path| routes.route(&format!("/api/{path}"), any(ollama::refuse)))
}

fn of_native() -> Routes {
    let routes = Router::new()
        .route("/props", get(native::props).post(native::refuse))
        .route("/slots", get(native::slots))
        .route("/tokenize", post(native::tokenize))
        .route("/detokenize", post(native::detokenize))
        .route("/apply-template", post(native::apply_template))
        .route("/tokenizer_info", get(native::tokenizer_info))
        .route("/completion", post(native::complete))
        .route("/completions", post(native::complete))
        .route("/infill", post(native::infill));
    let refused = ["slots/{id}", "lora-adapters", "embedding", "embeddings", "rerank", "reranking"];
    refused.iter().fold(routes, |routes, path| routes.route(&format!("/{path}"), any(native::refuse)))
}

/// Lets a request in, and adds to its answer what all have.
async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let interface = Interface::of(request.uri().path(), request.headers());
    let method = request.method().clone();
    let id = identifier("req-");
    request.extensions_mut().insert(RequestId(id.clone()));
    let admitted = shared.gate.admit(&method, request.uri(), request.headers());
    let origin = admitted.map(|origin| origin.map(str::to_owned));
    let (origin, mut response) = match origin {
        Err(refusal) => (None, refusal.into_response()),
        Ok(origin) if method == Method::OPTIONS => (origin, StatusCode::NO_CONTENT.into_response()),
        Ok(origin) => (origin, next.run(request).await),
    };
    Refusal::write(&mut response, interface, &id);
    shared.metrics.request(interface.name(), response.status().as_u16());
    let headers = response.headers_mut();
    add(headers, header::SERVER, concat!("moewe/", env!("CARGO_PKG_VERSION")));
    add(headers, header::HeaderName::from_static("x-request-id"), &id);
    if interface == Interface::Anthropic {
        add(headers, header::HeaderName::from_static("request-id"), &id);
    }
    add(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(origin) = origin {
        add(headers, header::ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if method == Method::OPTIONS {
            add(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
            add(
                headers,
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, content-type, x-api-key, anthropic-version, anthropic-beta",
            );
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
