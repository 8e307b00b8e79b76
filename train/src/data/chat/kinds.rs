//! The kinds of lines that are understood. Which kind a file has, its first line says by its keys.
//!
//! A kind is one line in [`KINDS`] and the function that reads it. Keys beside those of the kind are not read: files carry
//! names, sources and scores.

use super::example::{Example, Turn, Wrong, tools};
use serde_json::{Map, Value as Json};

/// The keys of a line with what stands under them.
pub(super) type Fields = Map<String, Json>;

/// A kind of line.
#[derive(Debug)]
pub struct Kind {
    /// What it is called.
    pub name: &'static str,
    /// The keys that every line has.
    pub keys: &'static [&'static str],
    /// Keys that are read where there are some.
    pub more: &'static [&'static str],
    /// Whether a template has to turn it into text.
    pub is_chat: bool,
    has_shape: fn(&Fields) -> bool, // beyond the keys
    pub(super) read: fn(Fields) -> Result<Example, Wrong>,
}

/// All kinds; of those whose keys a line has, the first is meant.
pub static KINDS: &[Kind] = &[
    Kind {
        name: "chat",
        keys: &["messages"],
        more: &["tools"],
        is_chat: true,
        has_shape: |_| true,
        read: messages,
    },
    Kind {
        name: "ShareGPT",
        keys: &["conversations"],
        more: &["system", "tools"],
        is_chat: true,
        has_shape: |_| true,
        read: conversations,
    },
    Kind {
        name: "Alpaca",
        keys: &["instruction", "output"],
        more: &["input", "system", "history"],
        is_chat: true,
        has_shape: |_| true,
        read: alpaca,
    },
    Kind {
        name: "completion of a chat",
        keys: &["prompt", "completion"],
        more: &["tools"],
        is_chat: true,
        has_shape: |fields| fields["prompt"].is_array(),
        read: chat_completion,
    },
    Kind {
        name: "completion",
        keys: &["prompt", "completion"],
        more: &[],
        is_chat: false,
        has_shape: |_| true,
        read: completion,
    },
    Kind { name: "text", keys: &["text"], more: &[], is_chat: false, has_shape: |_| true, read: text },
];

/// The kind of a line.
pub(super) fn kind_of(fields: &Fields) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| kind.keys.iter().all(|key| fields.contains_key(*key)) && (kind.has_shape)(fields))
}

/// What is said where a first line has no kind.
pub(super) fn known() -> String {
    let mut keys: Vec<String> = KINDS.iter().map(|kind| kind.keys.join(" and ")).collect();
    keys.dedup();
    format!("the keys {}", keys.join(", or "))
}

/// The keys of a line, as errors list them.
pub(super) fn keys(fields: &Fields) -> String {
    const MOST: usize = 20;
    let names = fields.keys().take(MOST).map(|key| shown(key));
    let names = names.collect::<Vec<_>>().join(", ");
    match fields.len() {
        0 => "no keys".to_owned(),
        length if length > MOST => format!("the keys {names} and {} more", length - MOST),
        _ => format!("the keys {names}"),
    }
}

/// A key as far as a line has room for it, without what would steer a terminal.
fn shown(key: &str) -> String {
    key.chars().take(40).flat_map(char::escape_debug).collect()
}

/// The keys of a line that nobody reads.
pub(super) fn unread(kind: &Kind, fields: &Fields) -> Vec<String> {
    let is_read = |key: &str| kind.keys.contains(&key) || kind.more.contains(&key);
    fields.keys().filter(|key| !is_read(key)).map(|key| shown(key)).collect()
}

/// Takes a list.
fn list(fields: &mut Fields, key: &str) -> Result<Vec<Json>, Wrong> {
    match fields.get_mut(key).map(Json::take) {
        Some(Json::Array(list)) => Ok(list),
        other => Err(Wrong::value(key, "a list", &other.unwrap_or(Json::Null))),
    }
}

/// Takes a text.
fn string(fields: &mut Fields, key: &str) -> Result<String, Wrong> {
    match fields.get_mut(key).map(Json::take) {
        Some(Json::String(text)) => Ok(text),
        other => Err(Wrong::value(key, "a text", &other.unwrap_or(Json::Null))),
    }
}

/// Takes a text that may be missing.
fn maybe(fields: &mut Fields, key: &str) -> Result<String, Wrong> {
    if fields.get(key).is_none_or(Json::is_null) { Ok(String::new()) } else { string(fields, key) }
}

fn turns(fields: &mut Fields, key: &str) -> Result<Vec<Turn>, Wrong> {
    let read = |(at, value)| Turn::read(&format!("{key}[{at}]"), value);
    list(fields, key)?.into_iter().enumerate().map(read).collect()
}

fn messages(mut fields: Fields) -> Result<Example, Wrong> {
    Ok(Example::Chat { turns: turns(&mut fields, "messages")?, tools: tools(&mut fields)? })
}

/// Names of ShareGPT with the roles that they are.
const SPEAKERS: [(&str, &str); 10] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("function_response", "tool"),
    ("observation", "tool"),
];

fn conversations(mut fields: Fields) -> Result<Example, Wrong> {
    let said = list(&mut fields, "conversations")?.into_iter().enumerate();
    let mut turns = said
        .map(|(at, value)| speech(&format!("conversations[{at}]"), value))
        .collect::<Result<Vec<_>, _>>()?;
    let system = maybe(&mut fields, "system")?;
    if !system.is_empty() {
        if turns.first().is_some_and(|turn| turn.message.role() == "system") {
            let found = "one in conversations, too";
            return Err(Wrong::new("system", "one system message", found));
        }
        turns.insert(0, Turn::new("system", system));
    }
    Ok(Example::Chat { turns, tools: tools(&mut fields)? })
}

/// A message of `{from, value}`, under the names that all others have.
fn speech(place: &str, value: Json) -> Result<Turn, Wrong> {
    let Json::Object(mut entries) = value else {
        return Err(Wrong::value(place, "an object with from and value", &value));
    };
    let from = entries.shift_remove("from").unwrap_or(Json::Null);
    let role = SPEAKERS.iter().find(|(name, _)| from == *name).map(|(_, role)| *role);
    let Some(role) = role else {
        let names = SPEAKERS.map(|(name, _)| name).join(", ");
        return Err(Wrong::value(format!("{place}.from"), &format!("one of {names}"), &from));
    };
    match entries.shift_remove("value") {
        Some(text @ Json::String(_)) => drop(entries.insert("content".to_owned(), text)),
        other => return Err(Wrong::value(format!("{place}.value"), "a text", &other.unwrap_or(Json::Null))),
    }
    entries.insert("role".to_owned(), Json::from(role));
    Turn::read(place, Json::Object(entries))
}

fn alpaca(mut fields: Fields) -> Result<Example, Wrong> {
    let (system, input) = (maybe(&mut fields, "system")?, maybe(&mut fields, "input")?);
    let (mut question, output) = (string(&mut fields, "instruction")?, string(&mut fields, "output")?);
    if !input.is_empty() {
        question = question + "\n\n" + &input;
    }
    let mut turns = Vec::new();
    if !system.is_empty() {
        turns.push(Turn::new("system", system));
    }
    let has_history = fields.get("history").is_some_and(|history| !history.is_null());
    let history = if has_history { list(&mut fields, "history")? } else { vec![] };
    for (at, pair) in history.into_iter().enumerate() {
        let texts: Option<Vec<&str>> =
            pair.as_array().and_then(|pair| pair.iter().map(Json::as_str).collect());
        let Some([question, answer]) = texts.as_deref() else {
            return Err(Wrong::value(format!("history[{at}]"), "a question and its answer", &pair));
        };
        // Only the output is asked for; what was said before it is only context.
        turns.push(Turn::new("user", *question));
        turns.push(Turn { is_trained: false, ..Turn::new("assistant", *answer) });
    }
    turns.extend([Turn::new("user", question), Turn::new("assistant", output)]);
    Ok(Example::Chat { turns, tools: None })
}

fn chat_completion(mut fields: Fields) -> Result<Example, Wrong> {
    let mut all = turns(&mut fields, "prompt")?;
    all.iter_mut().for_each(|turn| turn.is_trained = false);
    all.extend(turns(&mut fields, "completion")?);
    Ok(Example::Chat { turns: all, tools: tools(&mut fields)? })
}

fn completion(mut fields: Fields) -> Result<Example, Wrong> {
    let (prompt, completion) = (string(&mut fields, "prompt")?, string(&mut fields, "completion")?);
    Ok(Example::Text { prompt, completion })
}

fn text(mut fields: Fields) -> Result<Example, Wrong> {
    Ok(Example::Text { prompt: String::new(), completion: string(&mut fields, "text")? })
}
