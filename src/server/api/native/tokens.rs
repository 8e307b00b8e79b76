//! Texts to tokens and back, and conversations to prompts.

use crate::server::Shared;
use crate::server::api::choosing::Choosing;
use crate::server::api::openai::chat::{Chat, ChatRequest};
use crate::server::ask::aside;
use crate::server::body::{Body, ids};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use moewe_engine::tokenizer::{Special, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// A text, in llama-server's words or in vLLM's.
#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Text {
    /// The text.
    content: Option<String>,
    /// Whether the tokens that begin and end a text are put around it, usually not.
    add_special: Option<bool>,
    /// Whether control tokens that stand in it are read as such, which is usual.
    parse_special: Option<bool>,
    /// Whether each token comes with its text, or its bytes where they are no text.
    with_pieces: Option<bool>,
    /// The text, in vLLM's words.
    prompt: Option<String>,
    /// With `prompt`: whether the tokens that begin and end a text are put around it, which is usual.
    add_special_tokens: Option<bool>,
}

fn encode(tokenizer: &Tokenizer, text: &str, adds: bool, special: Special) -> Result<Vec<u32>, Refusal> {
    let tokens =
        if adds { tokenizer.encode_with_bos(text, special) } else { tokenizer.encode(text, special) };
    let mut tokens = tokens.map_err(|error| Refusal::field("content", error.to_string()))?;
    tokens.extend(tokenizer.eos().filter(|_| adds && tokenizer.add_eos()));
    Ok(tokens)
}

/// Tokens of a text.
#[utoipa::path(post, path = "/tokenize", request_body = Text, responses(
    (status = 200, description = "The tokens", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
))]
pub(in crate::server) async fn tokenize(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?.clone();
    let own: Text = body.read()?;
    let special = if own.parse_special.unwrap_or(true) { Special::Parse } else { Special::Plain };
    let (text, adds) = match (own.content, own.prompt) {
        (Some(text), _) => (text, own.add_special.unwrap_or(false)),
        (None, Some(text)) => (text, own.add_special_tokens.unwrap_or(true)),
        (None, None) => return Err(Refusal::field("content", "expected a text")),
    };
    let encoder = model.clone();
    let tokens = aside(move || encode(encoder.tokenizer(), &text, adds, special)).await?;
    let count = tokens.len();
    let tokens: Value = match own.with_pieces {
        Some(true) => tokens.iter().map(|&token| piece(model.tokenizer(), token)).collect(),
        _ => tokens.into(),
    };
    Ok(Json(json!({ "tokens": tokens, "count": count, "max_model_len": model.engine.context_length() })))
}

fn piece(tokenizer: &Tokenizer, token: u32) -> Value {
    if tokenizer.is_control(token) {
        return json!({ "id": token, "piece": tokenizer.token_text(token) });
    }
    let bytes = tokenizer.piece_bytes(token);
    let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
    json!({ "id": token, "piece": piece })
}

/// Tokens of a text.
#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Tokens {
    #[schema(value_type = Vec<u32>)]
    tokens: Option<Value>,
}

/// The text of tokens.
#[utoipa::path(post, path = "/detokenize", request_body = Tokens, responses(
    (status = 200, description = "The text", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
))]
pub(in crate::server) async fn detokenize(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    let own: Tokens = body.read()?;
    let tokens = own.tokens.unwrap_or_default();
    let tokens = match ids(&tokens, model.engine.config().vocab_size) {
        Some(Ok(tokens)) => tokens,
        Some(Err(id)) => return Err(Refusal::field("tokens", format!("the model has no token {id}"))),
        None => return Err(Refusal::field("tokens", "expected a list of token ids")),
    };
    let text = text(model.tokenizer(), &tokens);
    Ok(Json(json!({ "content": text, "prompt": text })))
}

/// The text, in which control tokens stand as they are called.
fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    if !tokens.iter().any(|&token| tokenizer.is_control(token)) {
        return tokenizer.decode(tokens);
    }
    let bytes = |&token: &u32| match tokenizer.is_control(token) {
        true => tokenizer.token_text(token).as_bytes(),
        false => tokenizer.piece_bytes(token),
    };
    let bytes: Vec<u8> = tokens.iter().flat_map(bytes).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The prompt that a chat's template makes of a conversation.
#[utoipa::path(post, path = "/apply-template", request_body = ChatRequest, responses(
    (status = 200, description = "The prompt", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
))]
pub(in crate::server) async fn apply_template(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?.clone();
    let (choosing, own): (Choosing, Chat) = (body.read()?, body.read()?);
    let (text, _) = own.read(&choosing, &shared, &model)?.prompt(&model).await?;
    Ok(Json(json!({ "prompt": text })))
}

/// What a client that makes tokens here wants to know of them.
#[utoipa::path(get, path = "/tokenizer_info", responses((status = 200, description = "Its tokens", body = Value)))]
pub(in crate::server) async fn tokenizer_info(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<Value>, Refusal> {
    let model: &Model = shared.model()?;
    let tokenizer = model.tokenizer();
    let ids = tokenizer.ids();
    let named = |id: Option<u32>| id.map(|id| tokenizer.token_text(id));
    Ok(Json(json!({
        "bos_token": named(ids.bos),
        "eos_token": named(ids.eos),
        "pad_token": named(ids.padding),
        "unk_token": named(ids.unknown),
        "add_bos_token": tokenizer.add_bos(),
        "add_eos_token": tokenizer.add_eos(),
        "chat_template": model.dialect.template.as_ref().map(|template| template.source()),
        "model_max_length": model.engine.context_length(),
    })))
}
