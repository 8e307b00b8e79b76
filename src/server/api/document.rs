//! `GET /openapi.json`: what can be asked, derived from what is read.

use super::anthropic::{self, AnthropicMessages};
use super::choosing::Choosing;
use super::native;
use super::native::completion::{NativeCompletion, NativeInfill};
use super::ollama::{self, Generate, OllamaChat, Usual};
use super::openai;
use super::openai::chat::Chat;
use super::openai::completions::Completion;
use super::openai::responses::Response;
use axum::Json;
use serde::Deserialize;
use utoipa::{OpenApi, ToSchema, openapi};

/// A request whose fields are read in parts, and its schema, which has those of all parts.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($part:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[expect(dead_code, reason = "only its schema is wanted: the parts are read one by one")]
        pub(super) struct $name { $(#[serde(flatten)] $part: $kind),* }
    )*};
}

requests! {
    /// A chat.
    ChatRequest { own: Chat, choosing: Choosing }
    /// A completion.
    CompletionRequest { own: Completion, choosing: Choosing }
    /// A response.
    ResponseRequest { own: Response, choosing: Choosing }
    /// A message of Anthropic's.
    MessagesRequest { own: AnthropicMessages, choosing: Choosing }
    /// A chat of Ollama's.
    OllamaChatRequest { own: OllamaChat, usual: Usual }
    /// A completion of Ollama's.
    GenerateRequest { own: Generate, usual: Usual }
    /// A completion of llama-server's.
    NativeRequest { own: NativeCompletion, choosing: Choosing }
    /// A gap.
    InfillRequest { gap: NativeInfill, own: NativeCompletion, choosing: Choosing }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "moewe", description = "A model on your own machine"),
    paths(
        openai::chat::chat,
        openai::chat::count,
        openai::completions::complete,
        openai::completions::embed,
        openai::models::list,
        openai::models::one,
        openai::responses::respond,
        openai::responses::count,
        anthropic::messages,
        anthropic::count,
        ollama::about::version,
        ollama::about::tags,
        ollama::about::show,
        ollama::about::ps,
        ollama::chat::chat,
        ollama::generate::generate,
        ollama::pull::pull,
        native::completion::complete,
        native::completion::infill,
        native::props::props,
        native::props::slots,
        native::tokens::tokenize,
        native::tokens::detokenize,
        native::tokens::apply_template,
        native::tokens::tokenizer_info,
        crate::server::experts::watch,
        crate::server::routes::health,
        crate::server::routes::metrics,
    )
)]
struct Document;

/// The document.
pub(in crate::server) async fn document() -> Json<openapi::OpenApi> {
    Json(Document::openapi())
}
