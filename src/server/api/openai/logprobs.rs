//! What the model thought of its tokens, in the shapes of chats and of completions.

use crate::server::scheduler::TokenOdds;
use moewe_engine::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// JSON has no infinity.
const IMPOSSIBLE: f32 = -9999.0;

fn number(logarithm: f32) -> Value {
    json!(logarithm.max(IMPOSSIBLE))
}

/// The text of a token; where it is not UTF-8 by itself its bytes, so that no two tokens look alike.
fn name(tokenizer: &Tokenizer, token: u32) -> String {
    if tokenizer.is_control(token) {
        return tokenizer.token_text(token).to_owned();
    }
    let bytes = tokenizer.piece_bytes(token);
    std::str::from_utf8(bytes).map_or_else(
        |_| format!("bytes:{}", bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()),
        str::to_owned,
    )
}

/// Tokens of a text completion, list by list.
#[derive(Default)]
pub(super) struct Legacy {
    tokens: Vec<Value>,
    chosen: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
    at: usize, // in characters
}

impl Legacy {
    /// The first token of a prompt, of which nobody thought anything.
    pub(super) fn begin(&mut self, tokenizer: &Tokenizer, token: u32) {
        self.push(tokenizer, token, Value::Null, Value::Null);
    }

    /// Whether nothing came yet.
    pub(super) fn is_empty(&self) -> bool {
        self.at == 0 && self.tokens.is_empty()
    }

    pub(super) fn add(&mut self, tokenizer: &Tokenizer, odds: &TokenOdds) {
        let mut top: Map<String, Value> = Map::new();
        for (token, logarithm) in odds.top.iter().chain([&(odds.token, odds.chosen)]) {
            // Tokens that are written alike count as the likeliest of them.
            top.entry(name(tokenizer, *token)).or_insert_with(|| number(*logarithm));
        }
        self.push(tokenizer, odds.token, number(odds.chosen), Value::Object(top));
    }

    fn push(&mut self, tokenizer: &Tokenizer, token: u32, chosen: Value, top: Value) {
        self.offsets.push(self.at.into());
        self.at += tokenizer.decode(&[token]).chars().count();
        self.tokens.push(name(tokenizer, token).into());
        self.chosen.push(chosen);
        self.top.push(top);
    }

    /// What came since the last time.
    pub(super) fn take(&mut self) -> Value {
        let take = std::mem::take::<Vec<Value>>;
        json!({
            "tokens": take(&mut self.tokens),
            "token_logprobs": take(&mut self.chosen),
            "top_logprobs": take(&mut self.top),
            "text_offset": take(&mut self.offsets),
        })
    }
}

/// A token of a chat's answer, with the likeliest ones in its place.
pub(in crate::server::api) fn of_chat(tokenizer: &Tokenizer, odds: &TokenOdds) -> Value {
    let entry = |token: u32, logarithm: f32| {
        let bytes = tokenizer.piece_bytes(token);
        json!({
            "token": String::from_utf8_lossy(bytes),
            "logprob": number(logarithm),
            "bytes": bytes,
        })
    };
    let mut whole = entry(odds.token, odds.chosen);
    whole["top_logprobs"] = odds.top.iter().map(|(token, logarithm)| entry(*token, *logarithm)).collect();
    whole
}
