//! `GET /openapi.json`: what can be asked, derived from what is read.

use super::api::{anthropic, native, ollama, openai};
use super::{experts, health};
use axum::Json;
use utoipa::{OpenApi, openapi};

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
        experts::watch,
        health::health,
        health::metrics,
    )
)]
struct Document;

/// The document.
pub(super) async fn document() -> Json<openapi::OpenApi> {
    Json(Document::openapi())
}
