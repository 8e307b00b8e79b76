//! `POST /v1/completions`: texts that are continued, with the odds of their tokens where they are wanted.

use super::logprobs::Legacy;
use super::{Frame, finish_reason};
use crate::server::Shared;
use crate::server::api::answer::Answer;
use crate::server::api::choosing::{Choosing, MOST_ODDS};
use crate::server::api::prompts::{self, Prompt};
use crate::server::api::requests::requests;
use crate::server::api::tell::{OPENAI, Tell, tell};
use crate::server::api::usage::progress;
use crate::server::ask::{Ask, aside};
use crate::server::body::{Body, within};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::scheduler::{Event, Telling, Usage};
use axum::extract::State;
use axum::response::Response;
use moewe_engine::dialogue::Dialogue;
use moewe_engine::grammar::Begins;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

const USUAL_LIMIT: u64 = 16;

requests! {
    /// A completion.
    CompletionRequest { own: Completion, choosing: Choosing }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Completion {
    /// A text, token ids, or a list of either.
    prompt: Option<Value>,
    /// The prompt before the answer.
    echo: Option<bool>,
    /// How many of the likeliest tokens are told beside each token.
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<u64>,
    /// `text`, `json_object`, or `json_schema` with a schema.
    response_format: Option<Value>,
    /// What follows the answer, for models that were trained to fill gaps.
    suffix: Option<String>,
    /// 1, or the same as `n`.
    #[schema(minimum = 1)]
    best_of: Option<usize>,
    /// How far the prompts have been read, in events of a stream.
    return_progress: Option<bool>,
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
    let (prompt, suffix) = (own.prompt, own.suffix);
    let prompts = aside(move || prompts(prompt, suffix, &encoder)).await?;
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
        odds: odds.map(|odds| Telling::of_model(odds as usize)),
        scores: echo && odds.is_some(),
        reuses: choosing.reuses(),
        progress: choosing.streams() && own.return_progress == Some(true),
    };
    let answers = ask.submit(&shared, &model)?;
    let teller = Teller {
        frame: Frame::new("cmpl-", "text_completion", &model, choosing.includes_usage()),
        choices: (0..prompts.len() * count).map(|_| Choice::default()).collect(),
        has_odds: odds.is_some(),
        model,
        prompts,
        count,
        echo,
    };
    tell(answers, teller, &OPENAI, choosing.streams(), "").await
}

/// The prompts of a request, with what follows the gap if there is one.
fn prompts(prompt: Option<Value>, suffix: Option<String>, model: &Model) -> Result<Vec<Prompt>, Refusal> {
    let Some(suffix) = suffix.filter(|suffix| !suffix.is_empty()) else {
        return prompts::read(prompt, model);
    };
    let Some(Value::String(prefix)) = prompt else {
        return Err(Refusal::field("prompt", "with suffix it is one text"));
    };
    let prompt = prompts::around_gap(model, &prefix, &suffix, "")?;
    Ok(vec![prompt.ok_or_else(|| Refusal::field("suffix", "this model was not trained to fill gaps"))?])
}

/// Vectors of texts, which no model for chats has.
#[utoipa::path(post, path = "/v1/embeddings", responses((status = 501, description = "Not with this server", body = Value)))]
pub(in crate::server) async fn embed() -> Refusal {
    Refusal::not_here("this server has no embeddings: its models generate text")
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
    answer: Answer,
    odds: Legacy,
    has_echo: bool,
}

impl Teller {
    /// Takes an event in; the text that it brings, if it brings one.
    fn take(&mut self, index: usize, event: Event) -> Option<String> {
        let (choice, prompt) = (self.choices.get_mut(index)?, &self.prompts[index / self.count]);
        let tokenizer = self.model.tokenizer();
        let is_end = match &event {
            Event::Scored(odds) => {
                if choice.odds.is_empty() {
                    choice.odds.begin(tokenizer, prompt.tokens[0]);
                }
                odds.iter().for_each(|odds| choice.odds.add(tokenizer, odds));
                return None;
            }
            Event::Token { odds, .. } => {
                odds.iter().for_each(|odds| choice.odds.add(tokenizer, odds));
                false
            }
            event => matches!(event, Event::Ended { .. }),
        };
        let text: String = choice.answer.take(event).into_iter().map(|news| news.text).collect();
        if is_end {
            self.frame.tally.add(&choice.answer.usage, 0, index.is_multiple_of(self.count));
        }
        (is_end || !text.is_empty()).then_some(text)
    }

    fn piece(&mut self, index: usize, text: &str) -> Value {
        let choice = &mut self.choices[index];
        let odds = if self.has_odds { choice.odds.take() } else { Value::Null };
        json!({ "text": text, "index": index, "logprobs": odds, "finish_reason": finish_reason(&choice.answer) })
    }
}

impl Tell for Teller {
    fn begin(&mut self, _: &Usage) -> Vec<Value> {
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
        if let Event::Read { read, usage } = event {
            let mut chunk = self.frame.chunk(vec![]);
            chunk["prompt_progress"] = progress(read, &usage);
            return vec![chunk];
        }
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
        self.take(index, event);
    }

    fn whole(&mut self) -> Option<Value> {
        let mut choices = vec![];
        for index in 0..self.choices.len() {
            self.choices[index].answer.ending?;
            let echo = if self.echo { self.prompts[index / self.count].text.as_str() } else { "" };
            let text = format!("{echo}{}", self.choices[index].answer.text());
            choices.push(self.piece(index, &text));
        }
        Some(self.frame.whole(choices))
    }
}
