//! `POST /api/generate`: one turn of a conversation, or a text that is continued as it stands.

use super::options::{Making, Usual};
use super::tell::{Teller, answer_to_nothing};
use crate::server::Shared;
use crate::server::api::choosing::refuse_unless_neutral;
use crate::server::api::prompts;
use crate::server::api::requests::requests;
use crate::server::api::tell::{OLLAMA, tell};
use crate::server::ask::{Ask, aside};
use crate::server::body::{Body, ids};
use crate::server::chat::Chat;
use crate::server::format::Format;
use crate::server::messages::{Messages, Tail};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::scheduler::Telling;
use crate::server::tools::Tools;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use moewe_engine::dialogue::Dialogue;
use moewe_engine::grammar::Begins;
use moewe_engine::tokenizer::Special;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

requests! {
    /// A completion of Ollama's.
    GenerateRequest { own: Generate, usual: Usual }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Generate {
    prompt: Option<String>,
    /// What follows the answer, for models that were trained to fill gaps.
    suffix: Option<String>,
    /// What the system says before the prompt.
    system: Option<String>,
    /// Not supported.
    template: Option<Value>,
    /// Whether the prompt is continued as it stands, without the model's template.
    raw: Option<bool>,
    /// What an earlier answer gave back: the tokens so far.
    context: Option<Value>,
}

/// A prompt, and how what follows it is to be read.
struct Begun {
    tokens: Vec<u32>,
    text: String,
    dialogue: Dialogue,
}

impl Generate {
    /// Tokens of what was said before.
    fn before(&self, model: &Model) -> Result<Vec<u32>, Refusal> {
        match self.context.as_ref().filter(|context| !context.is_null()) {
            None => Ok(vec![]),
            Some(context) => match ids(context, model.engine.config().vocab_size) {
                Some(Ok(tokens)) => Ok(tokens),
                Some(Err(id)) => Err(Refusal::field("context", format!("the model has no token {id}"))),
                None => Err(Refusal::field("context", "expected a list of token ids")),
            },
        }
    }

    /// The prompt of a model that continues texts.
    async fn plain(self, model: &Arc<Model>) -> Result<Begun, Refusal> {
        let (model, prompt) = (model.clone(), self.prompt.unwrap_or_default());
        let suffix = self.suffix.filter(|suffix| !suffix.is_empty());
        aside(move || {
            let tokens = match suffix {
                Some(suffix) => match prompts::around_gap(&model, &prompt, &suffix, "")? {
                    Some(prompt) => prompt.tokens,
                    None => {
                        return Err(Refusal::field("suffix", "this model was not trained to fill gaps"));
                    }
                },
                None => {
                    let tokens = model.tokenizer().encode_with_bos(&prompt, Special::Parse);
                    tokens.map_err(|error| Refusal::field("prompt", error.to_string()))?
                }
            };
            Ok(Begun { tokens, text: String::new(), dialogue: Dialogue::plain() })
        })
        .await
    }

    /// The prompt as a turn, after what was said before.
    async fn turn(self, usual: &Usual, making: &Making, model: &Arc<Model>) -> Result<Begun, Refusal> {
        let mut before = self.before(model)?;
        let mut turns = vec![];
        if let Some(system) = self.system.filter(|system| !system.is_empty()) {
            turns.push(json!({ "role": "system", "content": system }));
        }
        turns.push(json!({ "role": "user", "content": self.prompt.unwrap_or_default() }));
        let chat = Chat {
            messages: Messages::read(Some(turns.into()), Tail::default())?,
            tools: Tools::default(),
            variables: usual.variables(model)?,
            format: Format::default(),
            sampling: making.sampling.clone(),
            stops: vec![],
            limit: None,
            count: 1,
            odds: None,
            reuses: true,
            progress: false,
        };
        let (text, tokens) = chat.prompt(model).await?;
        let is_begun = !before.is_empty();
        let bos = model.tokenizer().bos();
        // A text begins once.
        let skipped = usize::from(is_begun && bos.is_some() && tokens.first() == bos.as_ref());
        before.extend(&tokens[skipped..]);
        Ok(Begun { tokens: before, text, dialogue: model.dialect.dialogue.clone() })
    }
}

/// Answers one prompt, as Ollama's clients want it.
#[utoipa::path(post, path = "/api/generate", request_body = GenerateRequest, responses(
    (status = 200, description = "The answer; with `stream`, which is usual, as application/x-ndjson", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn generate(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let (usual, own): (Usual, Generate) = (body.read()?, body.read()?);
    let making = usual.making(&body, &model, shared.settings.strict_model)?;
    refuse_unless_neutral("template", own.template.as_ref())?;
    if own.prompt.as_deref().unwrap_or_default().is_empty() {
        return Ok(Json(answer_to_nothing(&model, usual.nothing(), false)).into_response());
    }
    let has_suffix = own.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty());
    let is_plain = own.raw == Some(true) || has_suffix || model.dialect.template.is_none();
    if is_plain {
        let is_said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if is_said(&own.system) {
            return Err(Refusal::field("system", "there is no template that would write it"));
        }
        if !own.before(&model)?.is_empty() {
            return Err(Refusal::field("context", "there is no template that would write what follows it"));
        }
    }
    let Begun { tokens, text, dialogue } = match is_plain {
        true => own.plain(&model).await?,
        false => own.turn(&usual, &making, &model).await?,
    };
    let stops = model.dialect.stops.iter().cloned().chain(making.stops).collect();
    let ask = Ask {
        prompts: vec![tokens.clone()],
        count: 1,
        sampling: making.sampling,
        limit: making.limit,
        dialogue,
        stops,
        constraint: making.format.compile(&model, Begins::AfterThought).await?,
        offer: None,
        text,
        odds: making.odds.map(Telling::of_model),
        scores: false,
        reuses: making.reuses,
        progress: false,
    };
    let answers = ask.submit(&shared, &model)?;
    let teller = Teller::new(model, making.odds.is_some(), Some(tokens));
    tell(answers, teller, &OLLAMA, making.streams, "").await
}
