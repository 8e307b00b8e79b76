//! `POST /completion` and `POST /infill`: prompts that are continued, with llama-server's settings.

use super::tell::{Head, Shows, Teller};
use crate::server::Shared;
use crate::server::api::choosing::{Choosing, MOST_ODDS, refuse_unless_neutral};
use crate::server::api::prompts::{self, Prompt};
use crate::server::api::requests::requests;
use crate::server::api::tell::{NATIVE, tell};
use crate::server::ask::{Ask, aside};
use crate::server::body::{Body, within};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::scheduler::{By, Telling};
use axum::extract::State;
use axum::response::Response;
use moewe_engine::dialogue::Dialogue;
use moewe_engine::grammar::Begins;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

requests! {
    /// A completion of llama-server's.
    NativeRequest { own: NativeCompletion, choosing: Choosing }
    /// A gap.
    InfillRequest { gap: NativeInfill, own: NativeCompletion, choosing: Choosing }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct NativeCompletion {
    /// A text, token ids, both side by side, or a list of such.
    prompt: Option<Value>,
    /// Most tokens of an answer; -1 for no limit.
    #[schema(minimum = -2)]
    n_predict: Option<i64>,
    /// How many of the likeliest tokens are told beside each token.
    #[schema(minimum = 0, maximum = 20)]
    n_probs: Option<u64>,
    /// The answer's token ids beside it.
    return_tokens: Option<bool>,
    /// How far the prompt has been read, in events of a stream.
    return_progress: Option<bool>,
    /// `timings` in every event of a stream.
    timings_per_token: Option<bool>,
    /// Which fields are told of an answer, such as `content` or `generation_settings/seed`.
    response_fields: Option<Vec<String>>,
    /// Not supported.
    samplers: Option<Value>,
    /// Not supported.
    top_n_sigma: Option<Value>,
    /// Not supported.
    min_keep: Option<Value>,
    /// Not supported.
    n_indent: Option<Value>,
    /// Not supported.
    t_max_predict_ms: Option<Value>,
    /// Whether `n_probs` are told of what the tokens were drawn from, instead of the model's own.
    post_sampling_probs: Option<bool>,
    /// Not supported.
    image_data: Option<Value>,
}

/// What stands around a gap.
#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct NativeInfill {
    /// What stands before the gap.
    input_prefix: Option<String>,
    /// What stands behind it.
    input_suffix: Option<String>,
    /// What it begins with.
    #[schema(value_type = Option<String>)]
    prompt: Option<Value>,
    /// `text` of other files, which stands before the prefix.
    input_extra: Option<Vec<Value>>,
}

impl NativeCompletion {
    /// Which odds are told beside each token, if any.
    fn telling(&self) -> Result<Option<Telling>, Refusal> {
        let top = within("n_probs", self.n_probs.unwrap_or(0), 0, MOST_ODDS as u64)? as usize;
        let by = if self.post_sampling_probs == Some(true) { By::Draw } else { By::Model };
        Ok((top > 0).then_some(Telling { top, by }))
    }

    fn refuse_what_we_have_not(&self) -> Result<(), Refusal> {
        // These say nothing from there down.
        let above = |value: &Option<Value>, least: f64| {
            value.clone().filter(|value| value.as_f64().is_none_or(|number| number > least))
        };
        for (name, value) in [
            ("samplers", self.samplers.clone()),
            ("top_n_sigma", above(&self.top_n_sigma, 0.0)),
            ("min_keep", above(&self.min_keep, 1.0)),
            ("n_indent", above(&self.n_indent, 0.0)),
            ("t_max_predict_ms", above(&self.t_max_predict_ms, 0.0)),
            ("image_data", self.image_data.clone()),
        ] {
            refuse_unless_neutral(name, value.as_ref())?;
        }
        Ok(())
    }
}

/// Continues prompts.
#[utoipa::path(post, path = "/completion", request_body = NativeRequest, responses(
    (status = 200, description = "The answer, of several prompts a list; with `stream` as text/event-stream", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn complete(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let mut own: NativeCompletion = body.read()?;
    let (encoder, prompt) = (model.clone(), own.prompt.take());
    let prompts = aside(move || prompts::read(prompt, &encoder)).await?;
    answer(&shared, model, &body, own, prompts).await
}

/// Fills a gap, with a model that was trained for it.
#[utoipa::path(post, path = "/infill", request_body = InfillRequest, responses(
    (status = 200, description = "The answer; with `stream` as text/event-stream", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "Not with this model; the server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn infill(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let (own, gap): (NativeCompletion, NativeInfill) = (body.read()?, body.read()?);
    let encoder = model.clone();
    let prompt = aside(move || around(gap, &encoder)).await?;
    answer(&shared, model, &body, own, vec![prompt]).await
}

fn around(gap: NativeInfill, model: &Model) -> Result<Prompt, Refusal> {
    let begun = match &gap.prompt {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err(Refusal::field("prompt", "expected a text")),
    };
    let mut prefix = String::new();
    for (at, extra) in gap.input_extra.iter().flatten().enumerate() {
        let text = extra["text"].as_str();
        let text =
            text.ok_or_else(|| Refusal::field(format!("input_extra[{at}].text"), "expected a string"))?;
        prefix = prefix + text + "\n";
    }
    prefix += gap.input_prefix.as_deref().unwrap_or_default();
    let suffix = gap.input_suffix.as_deref().unwrap_or_default();
    let prompt = prompts::around_gap(model, &prefix, suffix, begun)?;
    prompt.ok_or_else(|| Refusal::not_this_model("this model was not trained to fill gaps"))
}

async fn answer(
    shared: &Shared,
    model: Arc<Model>,
    body: &Body,
    own: NativeCompletion,
    prompts: Vec<Prompt>,
) -> Result<Response, Refusal> {
    let choosing: Choosing = body.read()?;
    choosing.count(1)?;
    own.refuse_what_we_have_not()?;
    let (sampling, stops) = (choosing.sampling(&model)?, choosing.stops()?);
    let telling = own.telling()?;
    let limit = own.n_predict.map(|limit| within("n_predict", limit, -2, i64::MAX)).transpose()?;
    let limit = match limit {
        None => choosing.max_tokens.map(|limit| limit as usize),
        Some(limit) => usize::try_from(limit).ok(),
    };
    let streams = choosing.streams();
    let constraint = choosing.format(None)?.compile(&model, Begins::AtOnce).await?;
    let ask = Ask {
        prompts: prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
        count: 1,
        sampling: sampling.clone(),
        limit,
        dialogue: Dialogue::plain(),
        stops: model.dialect.stops.iter().chain(&stops).cloned().collect(),
        constraint,
        offer: None,
        text: String::new(),
        odds: telling,
        scores: false,
        reuses: choosing.reuses(),
        progress: streams && own.return_progress == Some(true),
    };
    let shows = Shows {
        streams,
        odds: telling.map(|telling| telling.by),
        timings: own.timings_per_token == Some(true),
        tokens: own.return_tokens == Some(true),
        fields: own.response_fields.unwrap_or_default(),
    };
    let settings = super::props::settings(&sampling, limit, &stops);
    let answers = ask.submit(shared, &model)?;
    let texts = prompts.into_iter().map(|prompt| prompt.text).collect();
    let head = Head { model, settings, prompts: texts };
    tell(answers, Teller::new(head, shows), &NATIVE, streams, "").await
}
