//! The dialect of OpenAI's interface: what a file here reads and writes are its fields, no more.

mod chat;
mod choosing;
mod completions;
mod document;
mod logprobs;
mod models;
mod stream;
mod usage;

pub(in crate::server) use chat::chat;
pub(in crate::server) use completions::complete;
pub(in crate::server) use document::document;
pub(in crate::server) use models::{list, one};

use crate::server::model::Model;
use moewe_engine::generate::Ending;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};
use std::time::SystemTime;
use usage::Tally;

/// What stands around the choices of an answer: who answers, and in the end what it took.
struct Frame {
    head: Map<String, Value>,
    includes_usage: bool, // in a stream
    tally: Tally,
}

impl Frame {
    fn new(prefix: &str, object: &str, model: &Model, includes_usage: bool) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let head = json!({
            "id": identifier(prefix),
            "object": object,
            "created": now.as_secs(),
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

/// `prefix-` and 24 letters and digits that nobody can guess.
pub(in crate::server) fn identifier(prefix: &str) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0u8; 24];
    // Without randomness all are alike, which no client minds much.
    let _ = SystemRandom::new().fill(&mut bytes);
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    format!("{prefix}-{}", letters.collect::<String>())
}

/// Why it ended, in OpenAI's words.
fn finish_reason(ending: Ending) -> &'static str {
    match ending {
        Ending::EndOfText | Ending::StopString | Ending::Stopped => "stop",
        Ending::Limit | Ending::ContextFull => "length",
    }
}
