//! `POST /v1/completions`: texts that are continued, with the odds of their tokens where they are wanted.

use super::choosing::{Choosing, MOST_ODDS, refuse_unless_neutral};
use super::document::CompletionRequest;
use super::logprobs::Legacy;
use super::stream::{Tell, tell};
use super::{Frame, finish_reason};
use crate::server::Shared;
use crate::server::ask::{Ask, aside};
use crate::server::body::{Body, ids, within};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::scheduler::Event;
use axum::extract::State;
use axum::response::Response;
use moewe_engine::dialogue::{Dialogue, Piece};
use moewe_engine::grammar::Begins;
use moewe_engine::tokenizer::Special;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

const MOST_PROMPTS: usize = 128;
const USUAL_LIMIT: u64 = 16;

#[derive(Deserialize, ToSchema)]
pub(super) struct Completion {
    /// A text, token ids, or a list of either.
    prompt: Option<Value>,
    /// The prompt before the answer.
    echo: Option<bool>,
    /// How many of the likeliest tokens are told beside each token.
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<u64>,
    /// `text`, `json_object`, or `json_schema` with a schema.
    response_format: Option<Value>,
    /// Not supported.
    suffix: Option<Value>,
    /// 1, or the same as `n`.
    best_of: Option<usize>,
}

/// A prompt, as text and as tokens.
struct Prompt {
    text: String,
    tokens: Vec<u32>,
}

/// Continues texts.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, responses(
    (status = 200, description = "The answer; with `stream` as text/event-stream", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn complete(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let (choosing, own): (Choosing, Completion) = (body.read()?, body.read()?);
    choosing.is_for(&model, shared.settings.strict_model)?;
    let count = choosing.count(shared.settings.limits.parallel)?;
    refuse_unless_neutral("suffix", own.suffix.as_ref())?;
    if own.best_of.is_some_and(|best_of| best_of != 1 && best_of != count) {
        return Err(Refusal::field("best_of", "expected 1 or the same as n"));
    }
    let odds = own.logprobs.map(|odds| within("logprobs", odds, 0, MOST_ODDS as u64)).transpose()?;
    let echo = own.echo.unwrap_or(false);
    let limit = choosing.max_tokens.unwrap_or(USUAL_LIMIT);
    let (sampling, stops) = (choosing.sampling(&model)?, choosing.stops()?);
    let format = choosing.format(own.response_format.as_ref())?;
    let constraint = format.compile(&model, Begins::AtOnce).await?;
    let encoder = model.clone();
    let prompts = aside(move || prompts(own.prompt, &encoder)).await?;
    let ask = Ask {
        prompts: prompts.iter().map(|prompt| prompt.tokens.clone()).collect(),
        count,
        sampling,
        limit: Some(limit as usize),
        offer: None,
        dialogue: Dialogue::plain(),
        stops,
        constraint,
        text: String::new(),
        odds: odds.map(|odds| odds as usize),
        scores: echo && odds.is_some(),
        reuses: choosing.reuses(),
    };
    let answers = ask.submit(&shared, &model)?;
    let teller = Teller {
        frame: Frame::new("cmpl", "text_completion", &model, choosing.includes_usage()),
        choices: (0..prompts.len() * count).map(|_| Choice::default()).collect(),
        has_odds: odds.is_some(),
        model,
        prompts,
        count,
        echo,
    };
    tell(answers, teller, choosing.streams()).await
}

/// The prompts of a request: texts get what the model's file puts before a text, ids are taken as they are.
fn prompts(prompt: Option<Value>, model: &Model) -> Result<Vec<Prompt>, Refusal> {
    let wrong = || Refusal::field("prompt", "expected a text, a list of texts, token ids, or a list of such");
    let vocabulary = model.engine.config().vocab_size;
    let one = |value: &Value| match (value, ids(value, vocabulary)) {
        (Value::String(text), _) => {
            let tokens = model.tokenizer().encode_with_bos(text, Special::Parse);
            let tokens = tokens.map_err(|error| Refusal::field("prompt", error.to_string()))?;
            Ok(Prompt { text: text.clone(), tokens })
        }
        (_, Some(Ok(tokens))) => Ok(Prompt { text: model.tokenizer().decode(&tokens), tokens }),
        (_, Some(Err(id))) => Err(Refusal::field("prompt", format!("the model has no token {id}"))),
        _ => Err(wrong()),
    };
    match prompt {
        Some(Value::Array(list)) if !list.is_empty() && !list[0].is_u64() => {
            if list.len() > MOST_PROMPTS {
                return Err(Refusal::field("prompt", format!("expected at most {MOST_PROMPTS}")));
            }
            list.iter().map(one).collect()
        }
        Some(Value::Array(list)) if list.is_empty() => Err(wrong()),
        Some(value) => Ok(vec![one(&value)?]),
        None => Err(Refusal::field("prompt", "it is missing")),
    }
}

/// All is the answer.
fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

/// Tells the answers, in pieces or as a whole.
struct Teller {
    frame: Frame,
    model: Arc<Model>,
    prompts: Vec<Prompt>,
    count: usize, // of answers to each
    choices: Vec<Choice>,
    echo: bool,
    has_odds: bool,
}

/// One of the answers, so far.
#[derive(Default)]
struct Choice {
    text: String,
    odds: Legacy,
    has_echo: bool,
    reason: Option<&'static str>,
}

impl Teller {
    /// Takes an event in; the text that it brings, if it brings one.
    fn take(&mut self, index: usize, event: Event) -> Option<String> {
        let (choice, prompt) = (self.choices.get_mut(index)?, &self.prompts[index / self.count]);
        let tokenizer = self.model.tokenizer();
        match event {
            Event::Begun | Event::Failed(_) => None,
            Event::Scored(odds) => {
                if choice.odds.is_empty() {
                    choice.odds.begin(tokenizer, prompt.tokens[0]);
                }
                odds.iter().for_each(|odds| choice.odds.add(tokenizer, odds));
                None
            }
            Event::Token { pieces, odds } => {
                odds.iter().for_each(|odds| choice.odds.add(tokenizer, odds));
                (!pieces.is_empty()).then(|| text(&pieces))
            }
            Event::Ended { ending, pieces, usage } => {
                choice.reason = Some(finish_reason(ending));
                self.frame.tally.add(&usage, 0, index.is_multiple_of(self.count));
                Some(text(&pieces))
            }
        }
    }

    fn piece(&mut self, index: usize, text: &str) -> Value {
        let choice = &mut self.choices[index];
        let odds = if self.has_odds { choice.odds.take() } else { Value::Null };
        json!({ "text": text, "index": index, "logprobs": odds, "finish_reason": choice.reason })
    }
}

impl Tell for Teller {
    fn begin(&mut self) -> Vec<Value> {
        if !self.echo || self.has_odds {
            return vec![];
        }
        let echo = |index: usize| {
            let text = &self.prompts[index / self.count].text;
            json!({ "text": text, "index": index, "logprobs": null, "finish_reason": null })
        };
        (0..self.choices.len()).map(|index| self.frame.chunk(vec![echo(index)])).collect()
    }

    fn say(&mut self, index: usize, event: Event) -> Vec<Value> {
        let Some(mut text) = self.take(index, event) else { return vec![] };
        let choice = &mut self.choices[index];
        // With odds the prompt comes with the first text, as its tokens do.
        if self.echo && self.has_odds && !std::mem::replace(&mut choice.has_echo, true) {
            text.insert_str(0, &self.prompts[index / self.count].text);
        }
        let piece = self.piece(index, &text);
        vec![self.frame.chunk(vec![piece])]
    }

    fn end(&mut self) -> Vec<Value> {
        self.frame.last()
    }

    fn keep(&mut self, index: usize, event: Event) {
        if let Some(text) = self.take(index, event) {
            self.choices[index].text.push_str(&text);
        }
    }

    fn whole(&mut self) -> Option<Value> {
        let mut choices = vec![];
        for index in 0..self.choices.len() {
            self.choices[index].reason?;
            let echo = if self.echo { self.prompts[index / self.count].text.as_str() } else { "" };
            let text = format!("{echo}{}", self.choices[index].text);
            choices.push(self.piece(index, &text));
        }
        Some(self.frame.whole(choices))
    }
}
