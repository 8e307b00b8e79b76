//! What chats and completions share: the options, whether the model is to think, and what is told besides.

use crate::server::api::choosing::{Choosing, MOST_ODDS, refuse_unless_neutral};
use crate::server::body::{Body, within};
use crate::server::format::Format;
use crate::server::messages::variables;
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use moewe_engine::sampler::Sampling;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Usual {
    /// Any name is served, unless the server is strict about names.
    model: Option<String>,
    /// Whether the answer comes line by line.
    stream: Option<bool>,
    /// `num_predict` (-1 for no limit), `num_ctx` (as far as the model's goes), and those of all requests, such as
    /// `temperature`, `top_k`, `top_p`, `min_p`, `seed`, `stop` and `repeat_penalty`.
    #[schema(value_type = Option<Value>)]
    options: Option<Own>,
    /// Whether to think, or how much: `low`, `medium` or `high`.
    think: Option<Value>,
    /// Nothing but 0 without a prompt says something: the model stays loaded.
    pub(super) keep_alive: Option<Value>,
    /// `json`, or a schema by which the answer is valid.
    format: Option<Value>,
    /// Not supported.
    images: Option<Value>,
    logprobs: Option<bool>,
    /// How many of the likeliest tokens are told beside each token.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
}

/// Options whose names no other interface has.
#[derive(Deserialize)]
struct Own {
    num_predict: Option<i64>,
    num_ctx: Option<u64>,
}

#[derive(Deserialize)]
struct Shared {
    options: Option<Choosing>,
}

/// How an answer is to be made.
pub(super) struct Making {
    pub(super) sampling: Sampling,
    pub(super) format: Format,
    pub(super) stops: Vec<String>,
    pub(super) limit: Option<usize>,
    pub(super) odds: Option<usize>,
    pub(super) reuses: bool,
    pub(super) streams: bool,
}

impl Usual {
    /// Checks it against the model.
    ///
    /// # Errors
    /// The first field that is out of range, or that this server has not.
    pub(super) fn making(&self, body: &Body, model: &Model, strict: bool) -> Result<Making, Refusal> {
        let name = self.model.as_deref().unwrap_or_default();
        if strict && !model.is_called(name) {
            return Err(Refusal::no_model(name));
        }
        refuse_unless_neutral("images", self.images.as_ref())?;
        let shared: Shared = body.read()?;
        let choosing = shared.options.unwrap_or_default();
        let sampling = choosing.sampling(model).map_err(|refusal| refusal.inside("options"))?;
        let stops = choosing.stops().map_err(|refusal| refusal.inside("options"))?;
        let own = self.options.as_ref();
        let context = model.engine.context_length() as u64;
        if let Some(wanted) = own.and_then(|own| own.num_ctx) {
            within("options.num_ctx", wanted, 0, context)?;
        }
        let limit = own.and_then(|own| own.num_predict);
        let limit = limit.map(|limit| within("options.num_predict", limit, -2, i64::MAX)).transpose()?;
        let top = within("top_logprobs", self.top_logprobs.unwrap_or(0), 0, MOST_ODDS as u64)?;
        Ok(Making {
            sampling,
            format: Format::of_ollama(self.format.as_ref())?,
            stops,
            limit: limit.and_then(|limit| usize::try_from(limit).ok()),
            odds: (self.logprobs == Some(true) || top > 0).then_some(top as usize),
            reuses: choosing.reuses(),
            streams: self.stream.unwrap_or(true),
        })
    }

    /// The template's variables.
    ///
    /// # Errors
    /// To think, where the model does not.
    pub(super) fn variables(&self, model: &Model) -> Result<Map<String, Value>, Refusal> {
        let (thinks, level) = match &self.think {
            None | Some(Value::Null) => return variables(model, None, None),
            Some(Value::Bool(thinks)) => (*thinks, None),
            Some(Value::String(level)) => (level != "none", Some(Value::from(level.as_str()))),
            Some(_) => return Err(Refusal::field("think", "expected true, false, low, medium or high")),
        };
        if thinks && !model.dialect.dialogue.has_reasoning() {
            return Err(Refusal::field("think", "this model does not think before it answers"));
        }
        let switch = Map::from_iter([("enable_thinking".to_owned(), thinks.into())]);
        variables(model, level.as_ref().filter(|_| thinks), Some(&switch))
    }

    /// Why nothing is answered where nothing is asked.
    pub(super) fn nothing(&self) -> &'static str {
        match &self.keep_alive {
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => "unload",
            Some(Value::String(time)) if matches!(time.as_str(), "0" | "0s" | "0m") => "unload",
            _ => "load",
        }
    }
}
