//! Why a request gets no answer: a status, and the JSON that clients of OpenAI's interface know.

use super::scheduler::Failure;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// One.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    /// The field that is wrong.
    param: Option<String>,
    message: String,
    detail: Detail,
}

/// What a client may want to know besides.
#[derive(Debug)]
enum Detail {
    None,
    /// Tokens of a prompt, and how many there may be.
    Lengths(usize, usize),
    /// Seconds.
    RetryAfter(u64),
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, code: None, param: None, message, detail: Detail::None }
    }

    /// A request that cannot be understood or met.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// The same, because of a field.
    pub(super) fn field(name: impl Into<String>, message: impl AsRef<str>) -> Self {
        let name = name.into();
        Self { param: Some(name.clone()), ..Self::invalid(format!("{name}: {}", message.as_ref())) }
    }

    pub(super) fn too_long(tokens: usize, context: usize) -> Self {
        let message =
            format!("the prompt has {tokens} tokens, and the context has room for {context} positions");
        let new = Self::new(StatusCode::BAD_REQUEST, "exceed_context_size_error", message);
        Self { code: Some("context_length_exceeded"), detail: Detail::Lengths(tokens, context), ..new }
    }

    pub(super) fn content_type() -> Self {
        let message = "the body must be JSON, uncompressed, with the header content-type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    pub(super) fn too_large(most: usize) -> Self {
        let message = format!("the body has more than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    pub(super) fn key() -> Self {
        let new =
            Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "the API key is missing or wrong");
        Self { code: Some("invalid_api_key"), ..new }
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub(super) fn no_model(name: &str) -> Self {
        let new = Self::new(StatusCode::NOT_FOUND, "not_found_error", format!("no model is called {name:?}"));
        Self { code: Some("model_not_found"), ..new }
    }

    pub(super) fn no_route(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", format!("there is no {path}"))
    }

    pub(super) fn method() -> Self {
        let message = "not with this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// A model that was not made to chat.
    pub(super) fn no_template() -> Self {
        let message = "this model has no chat template: ask /v1/completions to continue a text, or start the server \
                       with --chat-template";
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// A dense model.
    pub(super) fn no_experts() -> Self {
        let message = "this model has no experts";
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// The queue is full; it may have room in so many seconds.
    pub(super) fn busy(seconds: u64) -> Self {
        let new = Self::unavailable("the server is busy: its queue is full");
        Self { detail: Detail::RetryAfter(seconds), ..new }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout_error", message)
    }

    pub(super) fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// As it stands in a body, or in a stream that has begun.
    pub(super) fn json(&self) -> Value {
        let mut error = json!({
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        });
        if let Detail::Lengths(tokens, context) = self.detail {
            error["n_prompt_tokens"] = tokens.into();
            error["n_ctx"] = context.into();
        }
        json!({ "error": error })
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Waited => Self::timeout("the request has waited for too long"),
            Failure::Slow => Self::timeout("the answer took longer than it may"),
            Failure::Closing => Self::unavailable("the server is shutting down"),
            Failure::Setting(message) => Self::invalid(message),
            Failure::Engine(message) => Self::server(message),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let headers = response.headers_mut();
        if let Detail::RetryAfter(seconds) = self.detail {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if matches!(self.status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED) {
            // Clients ask again after these, and would hear the same.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}
