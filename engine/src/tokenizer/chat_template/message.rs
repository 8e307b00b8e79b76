//! One turn of a conversation, as JSON: whatever keys it has reach the template.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The key of what an assistant thought before it answered.
const REASONING: &str = "reasoning_content";

/// One turn: an object with a `role` and mostly a `content`, which is a text or a list of parts. An assistant's may
/// have `reasoning_content` and `tool_calls`, a tool's `tool_call_id` and `name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message(Map<String, Value>);

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self(Map::from_iter([
            ("role".to_owned(), Value::String(role.into())),
            ("content".to_owned(), Value::String(content.into())),
        ]))
    }

    /// The turn with `reasoning` as what was thought before it.
    #[must_use]
    pub fn with_reasoning(self, reasoning: impl Into<String>) -> Self {
        self.with(REASONING, Value::String(reasoning.into()))
    }

    /// The turn with `value` under `key`.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.0.insert(key.to_owned(), value);
        self
    }

    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub fn role(&self) -> &str {
        self.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// What was said: a text, or the texts of all parts.
    pub fn content(&self) -> String {
        match self.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }

    /// What was thought before it.
    pub fn reasoning(&self) -> Option<&str> {
        self.get(REASONING).and_then(Value::as_str)
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys with their values, in their order.
    pub fn entries(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = &'static str;

    fn try_from(entries: Map<String, Value>) -> Result<Self, Self::Error> {
        let is_text_or_parts = |value: &Value| value.is_string() || value.is_array() || value.is_null();
        match (entries.get("role"), entries.get("content")) {
            (Some(Value::String(_)), Some(content)) if is_text_or_parts(content) => Ok(Self(entries)),
            // A call of a tool needs no words.
            (Some(Value::String(_)), None) if entries.contains_key("tool_calls") => Ok(Self(entries)),
            _ => Err("a message has a role and a content, which is a text or a list of parts"),
        }
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_json_objects() {
        let json = r#"{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"reasoning_content":"r","x":1}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(
            (message.role(), &*message.content(), message.reasoning()),
            ("assistant", "ab", Some("r"))
        );
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert_eq!(message.get("x"), Some(&Value::from(1)));
        let call: Message = serde_json::from_str(r#"{"role":"assistant","tool_calls":[]}"#).unwrap();
        assert_eq!(call.content(), "");
        for wrong in [r#"{"role":"user"}"#, r#"{"content":"a"}"#, r#"{"role":"user","content":1}"#, "[]"] {
            assert!(serde_json::from_str::<Message>(wrong).is_err(), "{wrong}");
        }
    }
}
