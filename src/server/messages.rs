//! From messages to the prompt of a model: roles and contents are checked, the template does the rest. They have OpenAI's
//! shape, into which other dialects put theirs.

use crate::server::model::Model;
use crate::server::refusal::Refusal;
use moewe_engine::dialogue::Manner;
use moewe_engine::tokenizer::{ChatTemplate, Message, Rendered};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;

/// What the template gets from us, whatever a request says.
const RESERVED: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"];

/// What the prompt ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Tail {
    /// A last turn of the assistant, which is continued; behind others the beginning of one.
    #[default]
    Usual,
    /// The beginning of a turn of the assistant.
    Begun,
    /// A last turn of the assistant, which is continued; others as they end.
    Open,
    /// The last turn as it ends.
    Closed,
}

/// Messages as they stand in a body.
pub(super) struct Messages {
    messages: Vec<Message>,
    /// Whether the model goes on with the last of them.
    continues: bool,
    /// Whether the beginning of an answer follows them.
    begins: bool,
}

impl Messages {
    /// # Errors
    /// The first message that is none, by its path.
    pub(super) fn read(value: Option<Value>, tail: Tail) -> Result<Self, Refusal> {
        let Some(Value::Array(list)) = value else {
            return Err(Refusal::field("messages", "expected a list of messages"));
        };
        let mut names = HashMap::new();
        let messages: Vec<Message> = list
            .into_iter()
            .enumerate()
            .map(|(at, value)| message(at, value, &mut names))
            .collect::<Result<_, _>>()?;
        let is_assistant = |message: &Message| message.role() == "assistant";
        match messages.as_slice() {
            [] => Err(Refusal::field("messages", "expected at least one")),
            [.., one, other] if is_assistant(one) && is_assistant(other) => {
                Err(Refusal::field("messages", "two of the assistant stand at the end"))
            }
            [.., last] => {
                let is_open = is_assistant(last) && last.get("tool_calls").is_none();
                let continues = is_open && matches!(tail, Tail::Usual | Tail::Open);
                let begins = !continues && matches!(tail, Tail::Usual | Tail::Begun);
                Ok(Self { messages, continues, begins })
            }
        }
    }

    /// The same with more to say by the system.
    pub(super) fn with_instructions(mut self, text: &str) -> Self {
        match self.messages.first_mut().filter(|first| first.role() == "system") {
            Some(first) => *first = Message::new("system", format!("{}\n\n{text}", first.content())),
            None => self.messages.insert(0, Message::new("system", text)),
        }
        self
    }

    /// The conversation as this template writes it, which wants calls of tools in this manner.
    ///
    /// # Errors
    /// What the template says.
    pub(super) fn render(
        &self,
        template: &ChatTemplate,
        manner: Manner,
        variables: &Map<String, Value>,
    ) -> Result<Rendered, Refusal> {
        let refused = |error: moewe_engine::Error| Refusal::field("messages", error.to_string());
        let messages = mannered(&self.messages, manner);
        let rendered = template.render_with(&messages, self.begins, variables).map_err(refused)?;
        match self.messages.last().filter(|_| self.continues) {
            None => Ok(rendered),
            Some(last) => rendered.until(&last.content()).ok_or_else(|| {
                Refusal::field(
                    "messages",
                    "this template changes what the assistant said: it cannot be continued",
                )
            }),
        }
    }
}

/// The messages with calls as a template wants them.
fn mannered(messages: &[Message], manner: Manner) -> Cow<'_, [Message]> {
    if manner == Manner::default() {
        return messages.into();
    }
    let (mut ids, mut count, mut turns) = (HashMap::new(), 0, vec![]);
    for message in messages {
        if manner.inner_results
            && message.role() == "tool"
            && let Some(turn) =
                turns.last_mut().filter(|turn: &&mut Message| turn.get("tool_calls").is_some())
        {
            *turn = with_result(turn, message);
            continue;
        }
        let id = message.get("tool_call_id").and_then(Value::as_str).and_then(|id| ids.get(id));
        let Some(Value::Array(calls)) = message.get("tool_calls") else {
            turns.push(match id.cloned() {
                Some(id) => message.clone().with("tool_call_id", id),
                None => message.clone(),
            });
            continue;
        };
        let mut calls = calls.clone();
        for call in &mut calls {
            let old = call["id"].as_str().unwrap_or_default().to_owned();
            if manner.named_ids {
                let name = call["function"]["name"].as_str().unwrap_or_default();
                call["id"] = format!("functions.{name}:{count}").into();
            } else if manner.short_ids {
                call["id"] = short(&old).into();
            }
            if manner.text_arguments {
                call["function"]["arguments"] = call["function"]["arguments"].to_string().into();
            }
            ids.insert(old, call["id"].clone());
            count += 1;
        }
        let mut turn = message.clone().with("tool_calls", calls.into());
        if manner.null_content {
            // Words beside calls would be all that such a template writes.
            if !message.content().is_empty() {
                turns.push(Message::new("assistant", message.content()));
            }
            turn = turn.with("content", Value::Null);
        }
        turns.push(turn);
    }
    turns.into()
}

/// A turn that called tools, with a result of one of them, which may be a JSON object.
fn with_result(turn: &Message, result: &Message) -> Message {
    let mut results = turn.get("tool_responses").and_then(Value::as_array).cloned().unwrap_or_default();
    let content = result.content();
    let response = serde_json::from_str(&content).map_or_else(|_| Value::from(content), Value::Object);
    results.push(json!({ "name": result.get("name"), "response": response }));
    turn.clone().with("tool_responses", results.into())
}

/// Nine letters and digits of an id: the last ones, which differ.
fn short(id: &str) -> String {
    let signs: Vec<char> = id.chars().filter(char::is_ascii_alphanumeric).collect();
    let last: String = signs[signs.len().saturating_sub(9)..].iter().collect();
    format!("{last:0>9}")
}

/// A message as it stands in a body; `names` are those of the tools that were called, by the ids of the calls.
fn message(at: usize, value: Value, names: &mut HashMap<String, String>) -> Result<Message, Refusal> {
    let wrong = |key: &str, what: &str| Refusal::field(format!("messages[{at}]{key}"), what);
    let Value::Object(mut entries) = value else { return Err(wrong("", "expected an object")) };
    let role = entries.get("role").and_then(Value::as_str).unwrap_or_default();
    let has_calls = entries.get("tool_calls").is_some_and(|calls| !calls.is_null());
    match role {
        "system" | "user" | "assistant" => {}
        "developer" => _ = entries.insert("role".into(), "system".into()),
        "tool" if entries.get("tool_call_id").is_some_and(Value::is_string) => {}
        "tool" => return Err(wrong(".tool_call_id", "expected a string")),
        _ => return Err(wrong(".role", "expected system, developer, user, assistant or tool")),
    }
    let content = match entries.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let text = |(number, part): (usize, &Value)| {
                let key = format!(".content[{number}]");
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => Ok(text.to_owned()),
                    (Some("text"), None) => Err(wrong(&(key + ".text"), "expected a string")),
                    (Some(other), _) => Err(wrong(&key, &format!("this model reads text, not {other}"))),
                    (None, _) => Err(wrong(&(key + ".type"), "expected text")),
                }
            };
            parts.iter().enumerate().map(text).collect::<Result<String, _>>()?
        }
        None | Some(Value::Null) if has_calls => String::new(),
        _ => return Err(wrong(".content", "expected a string or a list of parts")),
    };
    if let Some(calls) = entries.get_mut("tool_calls").filter(|_| has_calls) {
        read_calls(at, calls, names)?;
    }
    entries.retain(|_, value| !value.is_null());
    if entries.get("tool_calls").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        entries.shift_remove("tool_calls");
    }
    let id = entries.get("tool_call_id").and_then(Value::as_str);
    if let Some(name) = id.and_then(|id| names.get(id)).filter(|_| !entries.contains_key("name")) {
        entries.insert("name".into(), name.as_str().into());
    }
    entries.insert("content".into(), content.into());
    Message::try_from(entries).map_err(|what| wrong("", what))
}

/// The calls of a turn. Templates want arguments as an object; clients send them as its JSON.
fn read_calls(at: usize, calls: &mut Value, names: &mut HashMap<String, String>) -> Result<(), Refusal> {
    let path = format!("messages[{at}].tool_calls");
    let calls = calls.as_array_mut().ok_or_else(|| Refusal::field(&path, "expected a list"))?;
    for (number, call) in calls.iter_mut().enumerate() {
        let wrong = |key: &str, what: &str| Refusal::field(format!("{path}[{number}]{key}"), what);
        let arguments = match &call["function"]["arguments"] {
            Value::String(text) if text.trim().is_empty() => Map::new(),
            Value::String(text) => serde_json::from_str(text)
                .map_err(|error| wrong(".function.arguments", &error.to_string()))?,
            Value::Object(arguments) => arguments.clone(),
            Value::Null => Map::new(),
            _ => return Err(wrong(".function.arguments", "expected the JSON of an object in a string")),
        };
        let Some(name) = call.pointer("/function/name").and_then(Value::as_str).map(str::to_owned) else {
            return Err(wrong(".function.name", "expected a string"));
        };
        match &call["id"] {
            Value::Null => {}
            Value::String(id) => _ = names.insert(id.clone(), name),
            _ => return Err(wrong(".id", "expected a string")),
        }
        call["function"]["arguments"] = Value::Object(arguments);
        call["type"] = "function".into();
    }
    Ok(())
}

/// The template's variables: the server's own, then what a request sets.
///
/// # Errors
/// Names that are not a request's to set, and values that are no scalars.
pub(super) fn variables(
    model: &Model,
    effort: Option<&Value>,
    given: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, Refusal> {
    let mut variables = model.dialect.variables.clone();
    match effort {
        None | Some(Value::Null) => {}
        Some(Value::String(effort)) if effort == "none" => {
            variables.insert("enable_thinking".into(), false.into());
        }
        Some(Value::String(effort)) => {
            variables.insert("reasoning_effort".into(), effort.as_str().into());
        }
        Some(_) => return Err(Refusal::field("reasoning_effort", "expected a string")),
    }
    for (name, value) in given.into_iter().flatten() {
        let path = || format!("chat_template_kwargs.{name}");
        if RESERVED.contains(&name.as_str()) {
            return Err(Refusal::field(path(), "it is the conversation's own"));
        }
        if value.is_array() || value.is_object() {
            return Err(Refusal::field(path(), "expected a text, a number, a truth value or null"));
        }
        variables.insert(name.clone(), value.clone());
    }
    Ok(variables)
}
