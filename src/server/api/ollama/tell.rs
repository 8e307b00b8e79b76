//! An answer line by line, or in one: of a chat as messages, else as text. A call is told when it is whole.

use crate::server::api::answer::{Answer, Call, News, Part};
use crate::server::api::openai::logprobs::of_chat;
use crate::server::api::rfc3339;
use crate::server::api::tell::Tell;
use crate::server::model::Model;
use crate::server::scheduler::{Event, TokenOdds, Usage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;

/// Tells it.
pub(in crate::server::api) struct Teller {
    model: Arc<Model>,
    has_odds: bool,
    prompt: Option<Vec<u32>>, // where it is no chat
    answer: Answer,
    odds: Vec<Value>, // for the whole
}

/// What is told at once.
#[derive(Default)]
struct Piece {
    text: String,
    thought: String,
    calls: Vec<Value>,
    odds: Vec<TokenOdds>,
}

impl Teller {
    pub(super) fn new(model: Arc<Model>, has_odds: bool, prompt: Option<Vec<u32>>) -> Self {
        Self { model, has_odds, prompt, answer: Answer::default(), odds: vec![] }
    }

    fn odds(&self, odds: &[TokenOdds]) -> Vec<Value> {
        odds.iter().map(|odds| of_chat(self.model.tokenizer(), odds)).collect()
    }

    fn told(&self, piece: Piece) -> Value {
        let mut told = head(&self.model);
        match self.prompt {
            None => {
                let mut message = json!({ "role": "assistant", "content": piece.text });
                if !piece.thought.is_empty() {
                    message["thinking"] = piece.thought.into();
                }
                if !piece.calls.is_empty() {
                    message["tool_calls"] = piece.calls.into();
                }
                told["message"] = message;
            }
            Some(_) => {
                told["response"] = piece.text.into();
                if !piece.thought.is_empty() {
                    told["thinking"] = piece.thought.into();
                }
            }
        }
        told["done"] = false.into();
        if self.has_odds && !piece.odds.is_empty() {
            told["logprobs"] = self.odds(&piece.odds).into();
        }
        told
    }

    fn line(&self, news: News) -> Option<Value> {
        let mut piece = Piece { odds: news.odds, ..Piece::default() };
        match &self.answer.parts[news.part] {
            Part::Thought(_) => piece.thought = news.text,
            Part::Text(_) => piece.text = news.text,
            Part::Call(_) => return None,
        }
        Some(self.told(piece))
    }

    /// A line for the call that this part is, if it is one and whole.
    fn called(&self, part: usize) -> Option<Value> {
        let Part::Call(call) = self.answer.parts.get(part)? else { return None };
        Some(self.told(Piece { calls: vec![told_call(call)?], ..Piece::default() }))
    }

    /// What an answer took, and its tokens where it is no chat.
    fn finished(&self, mut last: Value) -> Value {
        let usage = &self.answer.usage;
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        last["done"] = true.into();
        last["done_reason"] = if self.answer.is_cut() { "length" } else { "stop" }.into();
        if let Some(prompt) = &self.prompt {
            last["context"] = [prompt.as_slice(), &self.answer.tokens].concat().into();
        }
        last["total_duration"] = nanoseconds(usage.waited + usage.prompt + usage.answer).into();
        last["load_duration"] = 0.into();
        last["prompt_eval_count"] = usage.prompt_tokens.into();
        last["prompt_eval_duration"] = nanoseconds(usage.prompt).into();
        last["eval_count"] = usage.completion_tokens.into();
        last["eval_duration"] = nanoseconds(usage.answer).into();
        last
    }
}

fn told_call(call: &Call) -> Option<Value> {
    Some(json!({ "function": { "name": call.name, "arguments": call.object()? } }))
}

fn head(model: &Model) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({ "model": model.name, "created_at": rfc3339(now.as_secs(), now.subsec_nanos()) })
}

/// What is said where nothing was asked: the model is there, or would be let go.
pub(super) fn answer_to_nothing(model: &Model, reason: &str, is_chat: bool) -> Value {
    let mut said = head(model);
    if is_chat {
        said["message"] = json!({ "role": "assistant", "content": "" });
    } else {
        said["response"] = "".into();
    }
    (said["done"], said["done_reason"]) = (true.into(), reason.into());
    said
}

impl Tell for Teller {
    fn begin(&mut self, _: &Usage) -> Vec<Value> {
        vec![]
    }

    fn say(&mut self, _: usize, event: Event) -> Vec<Value> {
        let mut lines = vec![];
        for news in self.answer.take(event) {
            if news.begins && news.part > 0 {
                lines.extend(self.called(news.part - 1));
            }
            lines.extend(self.line(news));
        }
        if self.answer.ending.is_some() {
            lines.extend(
                self.called(self.answer.parts.len().saturating_sub(1)).filter(|_| !self.answer.is_cut()),
            );
            lines.push(self.finished(self.told(Piece::default())));
        }
        lines
    }

    fn end(&mut self) -> Vec<Value> {
        vec![]
    }

    fn keep(&mut self, _: usize, event: Event) {
        for news in self.answer.take(event) {
            let odds = self.odds(&news.odds);
            self.odds.extend(odds);
        }
    }

    fn whole(&mut self) -> Option<Value> {
        self.answer.ending?;
        let calls: Vec<&Call> = self.answer.calls().collect();
        let is_last_cut = self.answer.is_cut() && matches!(self.answer.parts.last(), Some(Part::Call(_)));
        let whole = calls.len() - usize::from(is_last_cut);
        let piece = Piece {
            text: self.answer.text(),
            thought: self.answer.reasoning(),
            calls: calls[..whole].iter().filter_map(|call| told_call(call)).collect(),
            odds: vec![],
        };
        let mut told = self.told(piece);
        if self.has_odds {
            told["logprobs"] = std::mem::take(&mut self.odds).into();
        }
        Some(self.finished(told))
    }
}
