//! Answers as llama-server tells them: one object for each, with what it took, or pieces of it.

use crate::server::api::answer::{Answer, News};
use crate::server::api::tell::Tell;
use crate::server::api::usage::{progress, timings};
use crate::server::model::Model;
use crate::server::scheduler::{By, Event, TokenOdds, Usage};
use moewe_engine::generate::Ending;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What all answers to a request have in common.
pub(super) struct Head {
    pub(super) model: Arc<Model>,
    pub(super) settings: Value,
    /// Texts of the prompts.
    pub(super) prompts: Vec<String>,
}

/// What is wanted besides texts.
pub(super) struct Shows {
    pub(super) streams: bool,
    /// Whose odds.
    pub(super) odds: Option<By>,
    /// In every event.
    pub(super) timings: bool,
    pub(super) tokens: bool,
    /// Nothing else of an answer, where there are any.
    pub(super) fields: Vec<String>,
}

/// Tells them.
pub(super) struct Teller {
    head: Head,
    shows: Shows,
    choices: Vec<Choice>,
}

/// One of the answers, so far.
#[derive(Default)]
struct Choice {
    answer: Answer,
    odds: Vec<Value>, // for the whole
    told: usize,      // tokens
}

impl Teller {
    pub(super) fn new(head: Head, shows: Shows) -> Self {
        let choices = head.prompts.iter().map(|_| Choice::default()).collect();
        Self { head, shows, choices }
    }

    /// Logarithms of the model's own probabilities, or those of the draw.
    fn odds(&self, odds: &[TokenOdds]) -> Vec<Value> {
        let is_draw = self.shows.odds == Some(By::Draw);
        let (own, top) = if is_draw { ("prob", "top_probs") } else { ("logprob", "top_logprobs") };
        let entry = |token: u32, logarithm: f32| {
            let bytes = self.head.model.tokenizer().piece_bytes(token);
            // JSON has no infinity.
            let told = if is_draw { logarithm.exp() } else { logarithm.max(f32::MIN) };
            json!({ "id": token, "token": String::from_utf8_lossy(bytes), "bytes": bytes, own: told })
        };
        let whole = |odds: &TokenOdds| {
            let mut whole = entry(odds.token, odds.chosen);
            whole[top] = odds.top.iter().map(|(token, logarithm)| entry(*token, *logarithm)).collect();
            whole
        };
        odds.iter().map(whole).collect()
    }

    fn piece(&mut self, index: usize, news: &News) -> Value {
        let odds = self.shows.odds.map(|_| self.odds(&news.odds));
        let choice = &mut self.choices[index];
        let answer = &choice.answer;
        let mut piece = json!({
            "index": index,
            "content": news.text,
            "tokens": answer.tokens[choice.told..],
            "stop": false,
            "id_slot": -1,
            "tokens_predicted": answer.usage.completion_tokens,
            "tokens_evaluated": answer.usage.prompt_tokens,
        });
        if let Some(odds) = odds {
            piece["completion_probabilities"] = odds.into();
        }
        if self.shows.timings {
            piece["timings"] = timings(&answer.usage);
        }
        choice.told = answer.tokens.len();
        piece
    }

    /// All that is told of an answer at its end, in a stream without what was told before.
    fn last(&mut self, index: usize) -> Option<Value> {
        let (model, streams) = (self.head.model.clone(), self.shows.streams);
        let choice = &mut self.choices[index];
        let answer = &choice.answer;
        let (kind, word) = match answer.ending? {
            Ending::EndOfText | Ending::Stopped => ("eos", ""),
            Ending::Limit | Ending::ContextFull => ("limit", ""),
            Ending::StopString => ("word", answer.stop.as_deref().unwrap_or_default()),
        };
        let text = answer.text();
        let tokens: &[u32] = if self.shows.tokens && !streams { &answer.tokens } else { &[] };
        let mut last = json!({
            "index": index,
            "content": if streams { "" } else { &text },
            "tokens": tokens,
            "id_slot": -1,
            "stop": true,
            "model": model.name,
            "tokens_predicted": answer.usage.completion_tokens,
            "tokens_evaluated": answer.usage.prompt_tokens,
            "generation_settings": self.head.settings,
            "prompt": self.head.prompts[index],
            "has_new_line": text.contains('\n'),
            "truncated": false,
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": answer.usage.cached_tokens,
            "timings": timings(&answer.usage),
        });
        if self.shows.odds.is_some() && !streams {
            last["completion_probabilities"] = std::mem::take(&mut choice.odds).into();
        }
        Some(if self.shows.fields.is_empty() { last } else { only(&last, &self.shows.fields) })
    }
}

/// Of an object these fields, whose paths are written with slashes and are the names of what is found.
fn only(whole: &Value, fields: &[String]) -> Value {
    let field = |field: &String| {
        let found = whole.pointer(&format!("/{}", field.trim_start_matches('/')))?;
        Some((field.clone(), found.clone()))
    };
    Value::Object(fields.iter().filter_map(field).collect::<Map<_, _>>())
}

impl Tell for Teller {
    fn begin(&mut self, _: &Usage) -> Vec<Value> {
        vec![]
    }

    fn say(&mut self, index: usize, event: Event) -> Vec<Value> {
        if index >= self.choices.len() {
            return vec![];
        }
        if let Event::Read { read, usage } = event {
            let nothing = News { part: 0, begins: false, text: String::new(), odds: vec![] };
            let mut piece = self.piece(index, &nothing);
            piece["prompt_progress"] = progress(read, &usage);
            return vec![piece];
        }
        let news = self.choices[index].answer.take(event);
        let mut pieces: Vec<Value> = news.iter().map(|news| self.piece(index, news)).collect();
        pieces.extend(self.last(index));
        pieces
    }

    fn end(&mut self) -> Vec<Value> {
        vec![]
    }

    fn keep(&mut self, index: usize, event: Event) {
        if index < self.choices.len() {
            for news in self.choices[index].answer.take(event) {
                let odds = self.odds(&news.odds);
                self.choices[index].odds.extend(odds);
            }
            if self.choices[index].answer.ending.is_some() {
                let rest = self.choices[index].answer.rest_of_odds();
                let rest = self.odds(&rest);
                self.choices[index].odds.extend(rest);
            }
        }
    }

    fn whole(&mut self) -> Option<Value> {
        let mut all = (0..self.choices.len()).map(|index| self.last(index)).collect::<Option<Vec<_>>>()?;
        Some(if all.len() == 1 { all.remove(0) } else { all.into() })
    }
}
