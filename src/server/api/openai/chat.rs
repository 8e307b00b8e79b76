//! `POST /v1/chat/completions`: conversations, whose answers are told apart from the thoughts before them.

use super::{Frame, finish_reason, logprobs};
use crate::server::api::answer::{Answer, Call, News, Part};
use crate::server::api::choosing::{Choosing, MOST_ODDS, refuse_unless_neutral};
use crate::server::api::count_tokens;
use crate::server::api::requests::requests;
use crate::server::api::tell::{OPENAI, Tell, tell};
use crate::server::api::usage::{progress, timings};
use crate::server::body::{Body, within};
use crate::server::messages::{Messages, Tail, variables};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::scheduler::{Event, TokenOdds, Usage};
use crate::server::tools::{Choice as ToolChoice, Tools};
use crate::server::{Shared, chat as conversation};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

requests! {
    /// A chat.
    ChatRequest { own: Chat, choosing: Choosing }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Chat {
    /// Turns with `role` and `content`.
    #[schema(value_type = Vec<Value>)]
    messages: Option<Value>,
    /// Whether a last turn of the assistant is continued rather than answered.
    continue_final_message: Option<bool>,
    /// Whether the prompt ends with the beginning of an answer, which is usual.
    add_generation_prompt: Option<bool>,
    /// Most tokens of an answer.
    max_completion_tokens: Option<u64>,
    logprobs: Option<bool>,
    /// How many of the likeliest tokens are told beside each token.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    /// `text`, `json_object`, or `json_schema` with a schema.
    response_format: Option<Value>,
    /// What the model may call: functions by name, description and the schema of their parameters.
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
    /// How far the prompt has been read, in events of a stream.
    return_progress: Option<bool>,
    /// `timings` in every event of a stream from the first token on.
    timings_per_token: Option<bool>,
    /// The answer's token ids beside it.
    return_tokens: Option<bool>,
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

    /// What the prompt ends with.
    fn tail(&self) -> Result<Tail, Refusal> {
        match (self.continue_final_message, self.add_generation_prompt) {
            (Some(true), Some(true)) => {
                let message = "a last turn is either continued or answered: leave out one of the two";
                Err(Refusal::field("continue_final_message", message))
            }
            (Some(false), Some(false)) => Ok(Tail::Closed),
            (_, Some(false)) => Ok(Tail::Open),
            (Some(false), _) | (_, Some(true)) => Ok(Tail::Begun),
            (_, None) => Ok(Tail::Usual),
        }
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

impl Chat {
    /// The conversation that it means.
    pub(in crate::server::api) fn read(
        self,
        choosing: &Choosing,
        shared: &Shared,
        model: &Model,
    ) -> Result<conversation::Chat, Refusal> {
        self.refuse_what_we_have_not()?;
        let count = choosing.count(shared.settings.limits.parallel)?;
        let (sampling, stops, odds) = (choosing.sampling(model)?, choosing.stops()?, self.odds()?);
        let variables = variables(model, self.reasoning_effort.as_ref(), self.chat_template_kwargs.as_ref())?;
        let (tools, tail) = (self.tools()?, self.tail()?);
        let limits = [choosing.max_tokens, self.max_completion_tokens];
        Ok(conversation::Chat {
            messages: Messages::read(self.messages, tail)?,
            tools,
            variables,
            format: choosing.format(self.response_format.as_ref())?,
            sampling,
            stops,
            limit: limits.into_iter().flatten().min().map(|limit| limit as usize),
            count,
            odds,
            reuses: choosing.reuses(),
            progress: choosing.streams() && self.return_progress == Some(true),
        })
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
    let (has_timings, has_tokens) = (own.timings_per_token == Some(true), own.return_tokens == Some(true));
    let chat = own.read(&choosing, &shared, &model)?;
    let (count, has_odds, streams) = (chat.count, chat.odds.is_some(), choosing.streams());
    let answers = chat.submit(&shared, &model).await?;
    let object = if streams { "chat.completion.chunk" } else { "chat.completion" };
    let teller = Teller {
        frame: Frame::new("chatcmpl-", object, &model, choosing.includes_usage()),
        choices: (0..count).map(|_| Choice::default()).collect(),
        shows: Shows { odds: has_odds, timings: has_timings, tokens: has_tokens },
        model,
    };
    tell(answers, teller, &OPENAI, streams, "").await
}

/// Counts the tokens of a conversation.
#[utoipa::path(post, path = "/v1/chat/completions/input_tokens", request_body = ChatRequest, responses(
    (status = 200, description = "The count", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
))]
pub(in crate::server) async fn count(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let read = |own: Chat, choosing: &Choosing, model: &Model| own.read(choosing, &shared, model);
    let tokens = count_tokens(&shared, &body, read).await?;
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": tokens })))
}

/// Tells the answers, in pieces or as a whole.
struct Teller {
    frame: Frame,
    model: Arc<Model>,
    choices: Vec<Choice>,
    shows: Shows,
}

/// What is wanted besides texts.
struct Shows {
    odds: bool,
    timings: bool, // in every event from the first token on
    tokens: bool,
}

/// One of the answers, so far.
#[derive(Default)]
struct Choice {
    answer: Answer,
    odds: Vec<Value>, // for the whole
    told: usize,      // tokens
}

impl Teller {
    fn take(&mut self, index: usize, event: Event) -> Vec<News> {
        let Some(choice) = self.choices.get_mut(index) else { return vec![] };
        let news = choice.answer.take(event);
        if choice.answer.ending.is_some() {
            self.frame.tally.add(&choice.answer.usage, choice.answer.thoughts, index == 0);
        }
        news
    }

    fn odds(&self, odds: &[TokenOdds]) -> Vec<Value> {
        odds.iter().map(|odds| logprobs::of_chat(self.model.tokenizer(), odds)).collect()
    }

    /// The delta that some news are.
    fn delta(&self, index: usize, news: &News) -> Value {
        let answer = &self.choices[index].answer;
        let text = news.text.as_str();
        match &answer.parts[news.part] {
            Part::Thought(_) => json!({ "reasoning_content": text }),
            Part::Text(_) => json!({ "content": text }),
            Part::Call(call) => {
                let mut told = json!({ "index": answer.number(news.part) });
                if news.begins {
                    (told["id"], told["type"]) = (format!("call_{}", call.id).into(), "function".into());
                    told["function"]["name"] = call.name.as_str().into();
                }
                told["function"]["arguments"] = text.into();
                json!({ "tool_calls": [told] })
            }
        }
    }

    fn chunk(&mut self, index: usize, delta: Value, odds: Value) -> Value {
        let choice = &mut self.choices[index];
        let reason = if delta == json!({}) { finish_reason(&choice.answer) } else { None };
        let mut told = json!({ "index": index, "delta": delta, "logprobs": odds, "finish_reason": reason });
        if self.shows.tokens {
            let tokens = &choice.answer.tokens;
            told["tokens"] = tokens[choice.told..].into();
            choice.told = tokens.len();
        }
        let shown = self.shows.timings && choice.answer.usage.completion_tokens > 0;
        let timings = shown.then(|| timings(&choice.answer.usage));
        let mut chunk = self.frame.chunk(vec![told]);
        if let Some(timings) = timings {
            chunk["timings"] = timings;
        }
        chunk
    }
}

impl Tell for Teller {
    fn begin(&mut self, _: &Usage) -> Vec<Value> {
        let delta = json!({ "role": "assistant", "content": null });
        (0..self.choices.len()).map(|index| self.chunk(index, delta.clone(), Value::Null)).collect()
    }

    fn say(&mut self, index: usize, event: Event) -> Vec<Value> {
        if let Event::Read { read, usage } = event {
            let mut chunk = self.chunk(index, json!({}), Value::Null);
            chunk["prompt_progress"] = progress(read, &usage);
            return vec![chunk];
        }
        let mut chunks = vec![];
        for news in self.take(index, event) {
            let delta = self.delta(index, &news);
            let is_text = delta.get("content").is_some();
            let odds = if is_text && self.shows.odds {
                json!({ "content": self.odds(&news.odds), "refusal": null })
            } else {
                Value::Null
            };
            chunks.push(self.chunk(index, delta, odds));
        }
        if self.choices.get(index).is_some_and(|choice| choice.answer.ending.is_some()) {
            chunks.push(self.chunk(index, json!({}), Value::Null));
        }
        chunks
    }

    fn end(&mut self) -> Vec<Value> {
        self.frame.last()
    }

    fn keep(&mut self, index: usize, event: Event) {
        for news in self.take(index, event) {
            let odds = self.odds(&news.odds);
            self.choices[index].odds.extend(odds);
        }
    }

    fn whole(&mut self) -> Option<Value> {
        let mut choices = vec![];
        for index in 0..self.choices.len() {
            let rest = self.choices[index].answer.rest_of_odds();
            let rest = self.odds(&rest);
            let Choice { answer, odds, .. } = &mut self.choices[index];
            odds.extend(rest);
            let odds = std::mem::take(odds);
            let odds =
                if self.shows.odds { json!({ "content": odds, "refusal": null }) } else { Value::Null };
            let reason = finish_reason(answer)?;
            let mut told = json!({
                "index": index, "message": message(answer), "logprobs": odds, "finish_reason": reason,
            });
            if self.shows.tokens {
                told["tokens"] = answer.tokens.as_slice().into();
            }
            choices.push(told);
        }
        Some(self.frame.whole(choices))
    }
}

/// An answer as a message.
fn message(answer: &Answer) -> Value {
    let (text, reasoning) = (answer.text(), answer.reasoning());
    let call = |call: &Call| {
        json!({
            "id": format!("call_{}", call.id),
            "type": "function",
            "function": { "name": call.name, "arguments": call.arguments },
        })
    };
    let calls: Vec<Value> = answer.calls().map(call).collect();
    let has_none = text.is_empty() && !calls.is_empty();
    let mut message =
        json!({ "role": "assistant", "content": if has_none { Value::Null } else { text.into() } });
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

/// Tells one answer.
#[cfg(test)]
pub(in crate::server::api) fn teller(model: &Arc<Model>) -> impl Tell + use<> {
    Teller {
        frame: Frame::new("chatcmpl-", "chat.completion", model, false),
        choices: vec![Choice::default()],
        shows: Shows { odds: false, timings: false, tokens: false },
        model: model.clone(),
    }
}
