//! `GET /v1/models`: the one model that is served. Files' paths never appear.

use crate::server::Shared;
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use axum::Json;
use axum::extract::{Path, State};
use moewe_engine::gguf::Metadata;
use moewe_engine::sampler::Sampling;
use serde_json::{Value, json};
use std::sync::Arc;

fn describe(model: &Model) -> Value {
    let (engine, gguf) = (&model.engine, model.engine.gguf());
    let number = |key: &str| {
        let of = |metadata: &Metadata| {
            let architecture = metadata.str("general.architecture").ok().flatten()?;
            metadata.get(&format!("{architecture}.{key}"))?.as_i64()
        };
        of(gguf.metadata())
    };
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "moewe",
        "aliases": model.aliases,
        "meta": {
            "n_vocab": engine.config().vocab_size,
            "n_ctx": engine.context_length(),
            "n_ctx_train": engine.config().context_length,
            "n_embd": number("embedding_length"),
            "n_params": gguf.tensors().iter().map(|tensor| tensor.elements()).sum::<u64>(),
            "size": gguf.file_len(),
            "n_expert": number("expert_count"),
            "n_expert_used": number("expert_used_count"),
            "format": "gguf",
            "chat": model.dialect.template.is_some(),
            "sampling": sampling(&model.sampling),
        },
    })
}

/// What is done where a request says nothing else, by the names of a request's fields.
fn sampling(sampling: &Sampling) -> Value {
    // 0.8 rather than 0.800000011920929.
    let short = |number: f32| number.to_string().parse::<f64>().ok();
    json!({
        "temperature": short(sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": short(sampling.top_p),
        "min_p": short(sampling.min_p),
        "typical_p": short(sampling.typical_p),
        "repeat_penalty": short(sampling.repetition_penalty),
        "repeat_last_n": sampling.repeat_window.map_or(-1, |window| window as i64),
        "presence_penalty": short(sampling.presence_penalty),
        "frequency_penalty": short(sampling.frequency_penalty),
    })
}

/// All of them.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "The model", body = Value)))]
pub(in crate::server) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    Ok(Json(json!({ "object": "list", "data": [describe(model)] })))
}

/// One, by its name.
#[utoipa::path(get, path = "/v1/models/{name}", params(("name" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The model", body = Value),
    (status = 404, description = "There is none", body = Value),
))]
pub(in crate::server) async fn one(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    if model.is_called(&name) { Ok(Json(describe(model))) } else { Err(Refusal::no_model(&name)) }
}
