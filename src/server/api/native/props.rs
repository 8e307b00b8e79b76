//! What is told of the server: its settings, and what each of its places does. Never a prompt, never a path.

use crate::server::Shared;
use crate::server::api::openai::models;
use crate::server::refusal::Refusal;
use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use moewe_engine::sampler::Sampling;
use serde_json::{Value, json};
use std::sync::Arc;

/// Settings of an answer with llama-server's names.
pub(super) fn settings(sampling: &Sampling, limit: Option<usize>, stops: &[String]) -> Value {
    let bias = |(token, bias): &(u32, f32)| {
        // JSON has no infinity; `false` excludes a token.
        let bias = if bias.is_finite() { json!(bias) } else { json!(*bias == f32::INFINITY) };
        json!([token, bias])
    };
    let mut settings = models::sampling(sampling);
    settings["n_predict"] = limit.map_or(-1, |limit| limit as i64).into();
    settings["seed"] = sampling.seed.map_or(-1, |seed| seed as i64).into();
    settings["logit_bias"] = sampling.logit_bias.iter().map(bias).collect();
    settings["stop"] = stops.into();
    settings
}

/// Settings and facts.
#[utoipa::path(get, path = "/props", responses((status = 200, description = "Settings and facts", body = Value)))]
pub(in crate::server) async fn props(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    let tokenizer = model.tokenizer();
    let named = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
    Ok(Json(json!({
        "default_generation_settings": {
            "n_ctx": model.engine.context_length(),
            "params": settings(&model.sampling, shared.settings.tokens_limit, &model.dialect.stops),
        },
        "total_slots": shared.settings.limits.parallel,
        "model_alias": model.name,
        "chat_template": model.dialect.template.as_ref().map_or("", |template| template.source()),
        "bos_token": named(tokenizer.bos()),
        "eos_token": named(tokenizer.eos()),
        "build_info": model.fingerprint,
        "modalities": { "vision": false, "audio": false },
    })))
}

/// What each place does.
#[utoipa::path(get, path = "/slots", params(
    ("fail_on_no_slot" = Option<u8>, Query, description = "1: an error where all are taken"),
), responses(
    (status = 200, description = "One entry for each", body = Value),
    (status = 503, description = "All are taken", body = Value),
))]
pub(in crate::server) async fn slots(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<Value>, Refusal> {
    let model = shared.model()?;
    let slots = model.scheduler.slots();
    let mut wishes = uri.query().unwrap_or_default().split('&');
    let is_wanted = wishes.any(|wish| matches!(wish, "fail_on_no_slot=1" | "fail_on_no_slot=true"));
    if is_wanted && slots.iter().all(|slot| slot.is_processing) {
        return Err(Refusal::unavailable("no slot is free"));
    }
    let context = model.engine.context_length();
    let slots = slots.iter().enumerate().map(|(id, slot)| {
        let most = slot.limit.unwrap_or(usize::MAX).min(context.saturating_sub(slot.prompt));
        let sampling = slot.sampling.as_ref();
        json!({
            "id": id,
            "id_task": if slot.task == 0 { -1 } else { slot.task as i64 },
            "n_ctx": context,
            "is_processing": slot.is_processing,
            "params": sampling.map_or_else(|| json!({}), |sampling| settings(sampling, slot.limit, &[])),
            "next_token": [{
                "has_next_token": slot.is_processing,
                "n_remain": most.saturating_sub(slot.told),
                "n_decoded": slot.told,
            }],
        })
    });
    Ok(Json(slots.collect()))
}
