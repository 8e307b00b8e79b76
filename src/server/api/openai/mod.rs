//! The dialect of OpenAI's interface: what a file here reads and writes are its fields, no more.

pub(in crate::server) mod chat;
pub(in crate::server) mod completions;
pub(super) mod logprobs;
pub(in crate::server) mod models;
pub(in crate::server) mod responses;

pub(in crate::server) use chat::{chat, count as count_chat};
pub(in crate::server) use completions::{complete, embed};
pub(in crate::server) use models::{list, one};
pub(in crate::server) use responses::{count as count_response, respond};

use super::answer::Answer;
use super::usage::Tally;
use super::{identifier, now};
use crate::server::model::Model;
use moewe_engine::generate::Ending;
use serde_json::{Map, Value, json};

/// What stands around the choices of an answer: who answers, and in the end what it took.
struct Frame {
    head: Map<String, Value>,
    includes_usage: bool, // in a stream
    tally: Tally,
}

impl Frame {
    fn new(prefix: &str, object: &str, model: &Model, includes_usage: bool) -> Self {
        let head = json!({
            "id": identifier(prefix),
            "object": object,
            "created": now(),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        });
        let head = head.as_object().cloned().unwrap_or_default();
        Self { head, includes_usage, tally: Tally::default() }
    }

    fn around(&self, choices: Vec<Value>) -> Value {
        let mut whole = self.head.clone();
        whole.insert("choices".into(), choices.into());
        Value::Object(whole)
    }

    /// An event of a stream.
    fn chunk(&self, choices: Vec<Value>) -> Value {
        let mut chunk = self.around(choices);
        if self.includes_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// What a stream ends with.
    fn last(&self) -> Vec<Value> {
        let last = || self.tally.added_to(self.chunk(vec![]));
        self.includes_usage.then(last).into_iter().collect()
    }

    /// An answer that does not stream.
    fn whole(&self, choices: Vec<Value>) -> Value {
        self.tally.added_to(self.around(choices))
    }
}

/// Why it ended, in OpenAI's words.
fn finish_reason(answer: &Answer) -> Option<&'static str> {
    Some(match answer.ending? {
        _ if answer.wants_tools() => "tool_calls",
        Ending::EndOfText | Ending::StopString | Ending::Stopped => "stop",
        Ending::Limit | Ending::ContextFull => "length",
    })
}
