//! `GET /openapi.json`: what can be asked, derived from what is read.

use super::chat::Chat;
use super::choosing::Choosing;
use super::completions::Completion;
use super::{chat, completions, models};
use axum::Json;
use serde::Deserialize;
use utoipa::{OpenApi, ToSchema, openapi};

/// The fields of a chat, and those of both.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "only its schema is wanted: the parts are read one by one")]
pub(super) struct ChatRequest {
    #[serde(flatten)]
    chat: Chat,
    #[serde(flatten)]
    choosing: Choosing,
}

/// The fields of a completion, and those of both.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "only its schema is wanted: the parts are read one by one")]
pub(super) struct CompletionRequest {
    #[serde(flatten)]
    completion: Completion,
    #[serde(flatten)]
    choosing: Choosing,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "moewe", description = "A model on your own machine"),
    paths(chat::chat, completions::complete, models::list, models::one)
)]
struct Document;

/// The document.
pub(in crate::server) async fn document() -> Json<openapi::OpenApi> {
    Json(Document::openapi())
}
