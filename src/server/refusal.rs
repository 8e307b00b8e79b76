//! Why a request gets no answer, and how each interface says so: its status, and its JSON.
//!
//! A handler's refusal travels in its response; what stands around all routes writes it down in the words of the
//! route's interface, so that the gate, bodies and unknown paths need not know them.

use super::interface::Interface;
use super::scheduler::Failure;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// One.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    /// The field that is wrong.
    param: Option<String>,
    message: String,
    detail: Detail,
    /// Whether it is the route that is missing, rather than something of the model.
    is_route: bool,
}

/// What a client may want to know besides.
#[derive(Clone, Debug)]
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
        Self { status, kind, code: None, param: None, message, detail: Detail::None, is_route: false }
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

    /// What another model could do.
    pub(super) fn not_this_model(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// A model that was not made to chat.
    pub(super) fn no_template() -> Self {
        let message = "this model has no chat template: ask /v1/completions to continue a text, or start the server \
                       with --chat-template";
        Self::not_this_model(message)
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

    /// What this server has not, and says so rather than pretend.
    pub(super) fn not_here(message: impl Into<String>) -> Self {
        let new = Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message);
        Self { is_route: true, ..new }
    }

    /// The same, where its field stands inside of another one.
    pub(super) fn inside(self, outer: &str) -> Self {
        match self.param {
            Some(param) => Self {
                message: format!("{outer}.{}", self.message),
                param: Some(format!("{outer}.{param}")),
                ..self
            },
            None => self,
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self.detail, Detail::RetryAfter(_))
    }

    fn status_for(&self, interface: Interface) -> StatusCode {
        match interface {
            Interface::Anthropic if self.is_busy() => StatusCode::from_u16(529).unwrap_or(self.status),
            // Its clients know no 501 for a model that cannot do something, only for routes.
            Interface::Ollama if self.status == StatusCode::NOT_IMPLEMENTED && !self.is_route => {
                StatusCode::BAD_REQUEST
            }
            _ => self.status,
        }
    }

    /// As it stands in a body, or in a stream that has begun; `request` is that one's identifier.
    pub(super) fn json(&self, interface: Interface, request: &str) -> Value {
        match interface {
            Interface::OpenAi => json!({ "error": self.detailed(json!(self.code)) }),
            Interface::Native => json!({ "error": self.detailed(json!(self.status.as_u16())) }),
            Interface::Anthropic => json!({
                "type": "error",
                "error": { "type": self.anthropic_kind(), "message": self.message },
                "request_id": request,
            }),
            Interface::Ollama if self.is_busy() => {
                // Word for word: clients wait and ask again when they read it.
                json!({ "error": "server busy, please try again.  maximum pending requests exceeded" })
            }
            Interface::Ollama => json!({ "error": self.message }),
        }
    }

    /// With a number for its status, or OpenAI's word.
    fn detailed(&self, code: Value) -> Value {
        let mut error =
            json!({ "message": self.message, "type": self.kind, "param": self.param, "code": code });
        if let Detail::Lengths(tokens, context) = self.detail {
            error["n_prompt_tokens"] = tokens.into();
            error["n_ctx"] = context.into();
        }
        error
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            503 => "overloaded_error",
            500 => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// Writes it down where a response has only been marked with it.
    pub(super) fn write(response: &mut Response, interface: Interface, request: &str) {
        let Some(refusal) = response.extensions_mut().remove::<Self>() else { return };
        *response.status_mut() = refusal.status_for(interface);
        *response.body_mut() = Body::from(refusal.json(interface, request).to_string());
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
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
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if let Detail::RetryAfter(seconds) = self.detail {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if matches!(self.status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED) {
            // Clients ask again after these, and would hear the same.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
