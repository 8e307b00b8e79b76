//! What is told of the server and its one model: its version, its names, its facts.

use crate::facts::{architecture, main_format, to_json};
use crate::server::Shared;
use crate::server::api::prompts::fills_gaps;
use crate::server::api::rfc3339;
use crate::server::body::Body;
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use moewe_engine::gguf::Value as Fact;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// The model that is asked about.
#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Named {
    model: Option<String>,
    /// The same, as older clients call it.
    name: Option<String>,
    /// Whether lists are told, too.
    verbose: Option<bool>,
}

fn details(model: &Model) -> Value {
    let gguf = model.engine.gguf();
    let family = architecture(gguf);
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": count(model.parameters()),
        "quantization_level": main_format(gguf),
    })
}

/// As Ollama writes it: `7.6B`, `494.0M`.
fn count(parameters: u64) -> String {
    let number = parameters as f64;
    let (unit, letter) = [(1e9, "B"), (1e6, "M"), (1e3, "K")]
        .into_iter()
        .find(|(unit, _)| number >= *unit)
        .unwrap_or((1.0, ""));
    format!("{:.1}{letter}", number / unit)
}

fn entry(model: &Model) -> Value {
    let tag = if model.name.contains(':') { "" } else { ":latest" };
    let name = format!("{}{tag}", model.name);
    json!({
        "name": name,
        "model": name,
        "size": model.engine.gguf().file_len(),
        "digest": model.digest,
        "details": details(model),
    })
}

/// The version of Ollama whose interface this is.
#[utoipa::path(get, path = "/api/version", responses((status = 200, description = "The version", body = Value)))]
pub(in crate::server) async fn version(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "version": shared.settings.ollama_version }))
}

/// The model.
#[utoipa::path(get, path = "/api/tags", responses((status = 200, description = "A list of one", body = Value)))]
pub(in crate::server) async fn tags(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    let mut entry = entry(model);
    entry["modified_at"] = rfc3339(model.created, 0).into();
    Ok(Json(json!({ "models": [entry] })))
}

/// The model as it is loaded, which it stays.
#[utoipa::path(get, path = "/api/ps", responses((status = 200, description = "A list of one", body = Value)))]
pub(in crate::server) async fn ps(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    let mut entry = entry(model);
    entry["expires_at"] = "2318-04-09T12:00:00Z".into();
    entry["size_vram"] = 0.into();
    entry["context_length"] = model.engine.context_length().into();
    Ok(Json(json!({ "models": [entry] })))
}

/// The model's facts.
#[utoipa::path(post, path = "/api/show", request_body = Named, responses(
    (status = 200, description = "What its file says, without lists unless `verbose`", body = Value),
    (status = "4XX", description = "There is none, or the request is wrong", body = Value),
))]
pub(in crate::server) async fn show(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    let Named { model: first, name, verbose } = body.read()?;
    let asked = first.or(name).unwrap_or_default();
    if shared.settings.strict_model && !model.is_called(&asked) {
        return Err(Refusal::no_model(&asked));
    }
    let is_told = |value: &Fact| verbose == Some(true) || !matches!(value, Fact::Array(_));
    let facts = model
        .engine
        .metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), if is_told(value) { to_json(value) } else { Value::Null }));
    let sampling = &model.sampling;
    let parameters = [
        ("temperature", f64::from(sampling.temperature)),
        ("top_k", f64::from(sampling.top_k)),
        ("top_p", f64::from(sampling.top_p)),
        ("min_p", f64::from(sampling.min_p)),
        ("repeat_penalty", f64::from(sampling.repetition_penalty)),
        ("num_ctx", model.engine.context_length() as f64),
    ];
    let parameters: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name:<30} {}", *value as f32)).collect();
    let template = model.dialect.template.as_ref().map_or("{{ .Prompt }}", |template| template.source());
    let mut capabilities = vec!["completion"];
    capabilities.extend(model.dialect.dialogue.calls().map(|_| "tools"));
    capabilities.extend(model.dialect.dialogue.has_reasoning().then_some("thinking"));
    capabilities.extend(fills_gaps(model).then_some("insert"));
    Ok(Json(json!({
        "modelfile": format!("FROM {}\n", model.name),
        "parameters": parameters.join("\n"),
        "template": template,
        "details": details(model),
        "model_info": facts.collect::<Map<String, Value>>(),
        "capabilities": capabilities,
        "modified_at": rfc3339(model.created, 0),
    })))
}
