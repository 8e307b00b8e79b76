//! One example as a line of JSONL says it: a conversation whose turns are trained or not, or a text.
//!
//! Messages come out as templates want them: contents are texts, arguments of calls are objects, and what only speaks to
//! the trainer (`weight`, `train`) is taken out.

use crate::Error;
use moewe_engine::tokenizer::Message;
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Who may speak.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
const ASSISTANT: &str = "assistant";
/// Characters of a value that an error shows.
const SHOWN: usize = 60;

/// What is to be learnt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Example {
    /// A conversation, which a template turns into text.
    Chat {
        turns: Vec<Turn>,
        tools: Option<Json>, // a list
    },
    /// A text as it stands, with an end token after it.
    Text { prompt: String, completion: String },
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub message: Message,
    pub is_trained: bool,
}

/// What is wrong with a line, and where in it.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    place: String, // may be empty
    expected: String,
    found: String,
}

impl Wrong {
    pub(super) fn new(
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { place: place.into(), expected: expected.into(), found: found.into() }
    }

    /// A value that is not what was expected, shown as far as a line has room for it.
    pub(super) fn value(place: impl Into<String>, expected: &str, found: &Json) -> Self {
        let all = found.to_string();
        let mut text: String = all.chars().take(SHOWN).collect();
        if text.len() < all.len() {
            text.push('…');
        }
        Self::new(place, expected, text)
    }

    /// The error, with the file and the line.
    pub(super) fn in_line(self, path: &Path, line: u64) -> Error {
        let colon = if self.place.is_empty() { "" } else { ": " };
        Error::malformed(path, format!("line {line}{colon}{}", self.place), self.expected, self.found)
    }
}

impl Turn {
    /// A message of `role`; those of the assistant are trained.
    pub(super) fn new(role: &str, content: impl Into<String>) -> Self {
        Self { message: Message::new(role, content), is_trained: role == ASSISTANT }
    }

    pub(super) fn is_answer(&self) -> bool {
        self.message.role() == ASSISTANT
    }

    /// Reads a message of `{role, content}`, which stands at `place`.
    pub(super) fn read(place: &str, value: Json) -> Result<Self, Wrong> {
        let at = |key: &str| format!("{place}.{key}");
        let mut entries = match value {
            Json::Object(entries) => entries,
            other => return Err(Wrong::value(place, "a message: an object with role and content", &other)),
        };
        entries.retain(|_, value| !value.is_null());
        let role = match entries.get("role").and_then(Json::as_str) {
            Some(role) if ROLES.contains(&role) => role.to_owned(),
            _ => {
                let expected = format!("one of {}", ROLES.join(", "));
                return Err(Wrong::value(at("role"), &expected, entries.get("role").unwrap_or(&Json::Null)));
            }
        };
        let is_wanted = take_wanted(place, &mut entries)?;
        let content = content(&at("content"), &entries)?;
        entries.insert("content".to_owned(), Json::String(content));
        if let Some(calls) = entries.get_mut("tool_calls") {
            parse_arguments(&at("tool_calls"), calls)?;
        }
        let is_trained = is_wanted && role == ASSISTANT;
        let message = Message::try_from(entries).map_err(|what| Wrong::new(place, what, "another"))?;
        Ok(Self { message, is_trained })
    }
}

/// Takes `weight` and `train` out of a message: whether it is to be trained, as far as these say.
fn take_wanted(place: &str, entries: &mut Map<String, Json>) -> Result<bool, Wrong> {
    let is_weighted = match entries.shift_remove("weight") {
        None => true,
        Some(weight) => match weight.as_f64() {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => return Err(Wrong::value(format!("{place}.weight"), "0 or 1", &weight)),
        },
    };
    match entries.shift_remove("train") {
        None => Ok(is_weighted),
        Some(Json::Bool(train)) => Ok(is_weighted && train),
        Some(other) => Err(Wrong::value(format!("{place}.train"), "true or false", &other)),
    }
}

/// The text of a message: as it stands, or that of its parts; a call of a tool needs none.
fn content(place: &str, entries: &Map<String, Json>) -> Result<String, Wrong> {
    match entries.get("content") {
        Some(Json::String(text)) => Ok(text.clone()),
        Some(Json::Array(parts)) => {
            let text = |(number, part): (usize, &Json)| match part["text"].as_str() {
                Some(text) if part["type"] == "text" => Ok(text.to_owned()),
                _ => Err(Wrong::value(format!("{place}[{number}]"), "a part of type text", part)),
            };
            parts.iter().enumerate().map(text).collect()
        }
        None if entries.contains_key("tool_calls") => Ok(String::new()),
        other => Err(Wrong::value(place, "a text or a list of parts", other.unwrap_or(&Json::Null))),
    }
}

/// Templates want the arguments of a call as an object; many files have them as its JSON.
fn parse_arguments(place: &str, calls: &mut Json) -> Result<(), Wrong> {
    let Json::Array(calls) = calls else { return Err(Wrong::value(place, "a list", calls)) };
    for (number, call) in calls.iter_mut().enumerate() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        if let Json::String(text) = arguments {
            let parsed = serde_json::from_str::<Map<String, Json>>(text);
            let place = || format!("{place}[{number}].function.arguments");
            *arguments = parsed
                .map(Json::Object)
                .map_err(|_| Wrong::value(place(), "a JSON object", &Json::from(&**text)))?;
        }
    }
    Ok(())
}

/// `tools` of a line: a list, or the JSON of one.
pub(super) fn tools(fields: &mut Map<String, Json>) -> Result<Option<Json>, Wrong> {
    let wrong = |value: &Json| Wrong::value("tools", "a list of tools", value);
    match fields.get_mut("tools").map(Json::take) {
        None | Some(Json::Null) => Ok(None),
        Some(tools @ Json::Array(_)) => Ok(Some(tools)),
        Some(Json::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Json::String(text)) => match serde_json::from_str(&text) {
            Ok(tools @ Json::Array(_)) => Ok(Some(tools)),
            _ => Err(wrong(&Json::String(text))),
        },
        Some(other) => Err(wrong(&other)),
    }
    // A template asks whether there are tools, not how many.
    .map(|tools| tools.filter(|tools| tools.as_array().is_some_and(|list| !list.is_empty())))
}
