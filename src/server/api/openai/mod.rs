//! The dialect of OpenAI's interface: what a file here reads and writes are its fields, no more.

mod chat;
mod choosing;
mod completions;
mod document;
mod logprobs;
mod messages;
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

/// What all parts of an answer begin with.
struct Head(Map<String, Value>);

impl Head {
    fn new(prefix: &str, object: &str, model: &Model) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let head = json!({
            "id": identifier(prefix),
            "object": object,
            "created": now.as_secs(),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        });
        Self(head.as_object().cloned().unwrap_or_default())
    }

    /// With more behind it.
    fn and(&self, rest: Value) -> Value {
        let mut whole = self.0.clone();
        whole.extend(rest.as_object().cloned().unwrap_or_default());
        Value::Object(whole)
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
