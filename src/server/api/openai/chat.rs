//! `POST /v1/chat/completions`: conversations, whose answers are told apart from the thoughts before them.

use super::choosing::{Choosing, MOST_ODDS, refuse_unless_neutral};
use super::document::ChatRequest;
use super::stream::{Tell, tell};
use super::{Frame, finish_reason, logprobs};
use crate::server::body::{Body, within};
use crate::server::messages::{Messages, variables};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::scheduler::Event;
use crate::server::tools::{Choice as ToolChoice, Tools};
use crate::server::{Shared, chat as conversation};
use axum::extract::State;
use axum::response::Response;
use moewe_engine::dialogue::Piece;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub(super) struct Chat {
    /// Turns with `role` and `content`.
    #[schema(value_type = Vec<Value>)]
    messages: Option<Value>,
    /// Whether a last turn of the assistant is continued rather than answered.
    continue_final_message: Option<bool>,
    /// Most tokens of an answer.
    max_completion_tokens: Option<u64>,
    logprobs: Option<bool>,
    /// How many of the likeliest tokens are told beside each token.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    /// `text`, `json_object`, or `json_schema` with a schema.
    response_format: Option<Value>,
    /// Not supported, unless `tool_choice` is `none`.
    tools: Option<Value>,
    /// `none`, `auto`, `required`, or a function by its name.
    tool_choice: Option<Value>,
    /// Whether one answer may call several tools.
    parallel_tool_calls: Option<bool>,
    /// Not supported.
    functions: Option<Value>,
    /// A variable of the template; `none` asks the model not to think.
    #[schema(value_type = Option<String>)]
    reasoning_effort: Option<Value>,
    /// Variables of the template.
    #[schema(value_type = Option<Value>)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Only `["text"]` is supported.
    modalities: Option<Value>,
    /// Not supported.
    audio: Option<Value>,
    /// Not supported.
    prediction: Option<Value>,
    /// Not supported.
    web_search_options: Option<Value>,
}

impl Chat {
    fn refuse_what_we_have_not(&self) -> Result<(), Refusal> {
        let is_other = |value: &&Value| **value != json!(["text"]);
        for (name, value) in [
            ("functions", self.functions.as_ref()),
            ("modalities", self.modalities.as_ref().filter(is_other)),
            ("audio", self.audio.as_ref()),
            ("prediction", self.prediction.as_ref()),
            ("web_search_options", self.web_search_options.as_ref()),
        ] {
            refuse_unless_neutral(name, value)?;
        }
        Ok(())
    }

    fn tools(&self) -> Result<Tools, Refusal> {
        let list = match &self.tools {
            None | Some(Value::Null) => vec![],
            Some(Value::Array(list)) => list.clone(),
            Some(_) => return Err(Refusal::field("tools", "expected a list")),
        };
        let choice = match &self.tool_choice {
            None | Some(Value::Null) => ToolChoice::Auto,
            Some(choice) if choice == "none" => ToolChoice::None,
            Some(choice) if choice == "auto" => ToolChoice::Auto,
            Some(choice) if choice == "required" => ToolChoice::Required,
            Some(choice) => match choice.pointer("/function/name").and_then(Value::as_str) {
                Some(name) => ToolChoice::Named(name.to_owned()),
                None => {
                    return Err(Refusal::field("tool_choice", "expected none, auto, required or a function"));
                }
            },
        };
        Ok(Tools { list, choice, several: self.parallel_tool_calls.unwrap_or(true) })
    }

    /// How many of the likeliest tokens are told, if any.
    fn odds(&self) -> Result<Option<usize>, Refusal> {
        let top = within("top_logprobs", self.top_logprobs.unwrap_or(0), 0, MOST_ODDS as u64)?;
        match self.logprobs.unwrap_or(false) {
            false if top > 0 => Err(Refusal::field("top_logprobs", "logprobs must be true for it")),
            wanted => Ok(wanted.then_some(top as usize)),
        }
    }
}

/// Answers in a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses(
    (status = 200, description = "The answer; with `stream` as text/event-stream", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn chat(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let (choosing, own): (Choosing, Chat) = (body.read()?, body.read()?);
    choosing.is_for(&model, shared.settings.strict_model)?;
    own.refuse_what_we_have_not()?;
    let count = choosing.count(shared.settings.limits.parallel)?;
    let (sampling, stops, odds) = (choosing.sampling(&model)?, choosing.stops()?, own.odds()?);
    let variables = variables(&model, own.reasoning_effort.as_ref(), own.chat_template_kwargs.as_ref())?;
    let tools = own.tools()?;
    let format = choosing.format(own.response_format.as_ref())?;
    let messages = Messages::read(own.messages, own.continue_final_message.unwrap_or(true))?;
    let limits = [choosing.max_tokens, own.max_completion_tokens];
    let chat = conversation::Chat {
        messages,
        tools,
        variables,
        format,
        sampling,
        stops,
        limit: limits.into_iter().flatten().min().map(|limit| limit as usize),
        count,
        odds,
        reuses: choosing.reuses(),
    };
    let answers = chat.submit(&shared, &model).await?;
    let streams = choosing.streams();
    let object = if streams { "chat.completion.chunk" } else { "chat.completion" };
    let teller = Teller {
        frame: Frame::new("chatcmpl", object, &model, choosing.includes_usage()),
        choices: (0..count).map(|_| Choice::default()).collect(),
        has_odds: odds.is_some(),
        model,
    };
    tell(answers, teller, streams).await
}

/// Tells the answers, in pieces or as a whole.
struct Teller {
    frame: Frame,
    model: Arc<Model>,
    choices: Vec<Choice>,
    has_odds: bool,
}

/// One of the answers, so far.
#[derive(Default)]
struct Choice {
    answer: String,
    reasoning: String,
    odds: Vec<Value>, // of the tokens that the answer's next text is made of, or of all
    thinks: bool,
    thoughts: usize, // tokens of these
    reason: Option<&'static str>,
}

/// What an event brings: texts, and the odds of the answer's.
#[derive(Default)]
struct Brought {
    reasoning: String,
    answer: String,
}

impl Teller {
    fn take(&mut self, index: usize, event: Event) -> Brought {
        let mut brought = Brought::default();
        let Some(choice) = self.choices.get_mut(index) else { return brought };
        let (pieces, is_token) = match event {
            Event::Begun | Event::Scored(_) | Event::Failed(_) => return brought,
            Event::Token { pieces, odds } => {
                let tokenizer = self.model.tokenizer();
                choice.odds.extend(odds.iter().map(|odds| logprobs::of_chat(tokenizer, odds)));
                (pieces, true)
            }
            Event::Ended { ending, pieces, usage } => {
                choice.reason = Some(finish_reason(ending));
                self.frame.tally.add(&usage, choice.thoughts, index == 0);
                (pieces, false)
            }
        };
        let newest = choice.odds.len() - usize::from(is_token && self.has_odds);
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => {
                    choice.thinks = true;
                    brought.reasoning.push_str(&text);
                }
                // No tool is offered yet, so none is called.
                Piece::Call(_) | Piece::Arguments(_) => {}
                Piece::Answer(text) => {
                    // What stood between thoughts and answer belongs to neither.
                    if std::mem::replace(&mut choice.thinks, false) {
                        choice.odds.drain(..newest.min(choice.odds.len()));
                    }
                    brought.answer.push_str(&text);
                }
            }
        }
        if choice.thinks {
            choice.thoughts += usize::from(is_token);
            choice.odds.clear();
        }
        brought
    }

    fn odds(&mut self, index: usize) -> Value {
        let odds = std::mem::take(&mut self.choices[index].odds);
        if self.has_odds { json!({ "content": odds, "refusal": null }) } else { Value::Null }
    }

    fn chunk(&self, index: usize, delta: Value, odds: Value) -> Value {
        let reason = if delta == json!({}) { self.choices[index].reason } else { None };
        let choice = json!({ "index": index, "delta": delta, "logprobs": odds, "finish_reason": reason });
        self.frame.chunk(vec![choice])
    }
}

impl Tell for Teller {
    fn begin(&mut self) -> Vec<Value> {
        let delta = json!({ "role": "assistant", "content": null });
        (0..self.choices.len()).map(|index| self.chunk(index, delta.clone(), Value::Null)).collect()
    }

    fn say(&mut self, index: usize, event: Event) -> Vec<Value> {
        let Brought { reasoning, answer } = self.take(index, event);
        let mut chunks = vec![];
        if !reasoning.is_empty() {
            chunks.push(self.chunk(index, json!({ "reasoning_content": reasoning }), Value::Null));
        }
        if !answer.is_empty() {
            let odds = self.odds(index);
            chunks.push(self.chunk(index, json!({ "content": answer }), odds));
        }
        if self.choices.get(index).is_some_and(|choice| choice.reason.is_some()) {
            chunks.push(self.chunk(index, json!({}), Value::Null));
        }
        chunks
    }

    fn end(&mut self) -> Vec<Value> {
        self.frame.last()
    }

    fn keep(&mut self, index: usize, event: Event) {
        let Brought { reasoning, answer } = self.take(index, event);
        if let Some(choice) = self.choices.get_mut(index) {
            choice.reasoning.push_str(&reasoning);
            choice.answer.push_str(&answer);
        }
    }

    fn whole(&mut self) -> Option<Value> {
        let mut choices = vec![];
        for index in 0..self.choices.len() {
            let odds = self.odds(index);
            let choice = &self.choices[index];
            let mut message = json!({ "role": "assistant", "content": choice.answer });
            if !choice.reasoning.is_empty() {
                message["reasoning_content"] = choice.reasoning.as_str().into();
            }
            let reason = choice.reason?;
            choices.push(json!({
                "index": index, "message": message, "logprobs": odds, "finish_reason": reason,
            }));
        }
        Some(self.frame.whole(choices))
    }
}
