//! From messages to the prompt of a model: roles and contents are checked, the template does the rest. They have OpenAI's
//! shape, into which other dialects put theirs.

use crate::server::model::Model;
use crate::server::refusal::Refusal;
use moewe_engine::tokenizer::{ChatTemplate, Message, Rendered};
use serde_json::{Map, Value};

/// What the template gets from us, whatever a request says.
const RESERVED: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"];

/// Messages as they stand in a body.
pub(super) struct Messages {
    messages: Vec<Message>,
    /// Whether the model goes on with the last of them.
    continues: bool,
}

impl Messages {
    /// # Errors
    /// The first message that is none, by its path.
    pub(super) fn read(value: Option<Value>, continues: bool) -> Result<Self, Refusal> {
        let Some(Value::Array(list)) = value else {
            return Err(Refusal::field("messages", "expected a list of messages"));
        };
        let messages: Vec<Message> =
            list.into_iter().enumerate().map(|(at, value)| message(at, value)).collect::<Result<_, _>>()?;
        let is_assistant = |message: &Message| message.role() == "assistant";
        match messages.as_slice() {
            [] => Err(Refusal::field("messages", "expected at least one")),
            [.., one, other] if is_assistant(one) && is_assistant(other) => {
                Err(Refusal::field("messages", "two of the assistant stand at the end"))
            }
            [.., last] => {
                let continues = continues && is_assistant(last) && last.get("tool_calls").is_none();
                Ok(Self { messages, continues })
            }
        }
    }

    /// The conversation as this template writes it.
    ///
    /// # Errors
    /// What the template says.
    pub(super) fn render(
        &self,
        template: &ChatTemplate,
        variables: &Map<String, Value>,
    ) -> Result<Rendered, Refusal> {
        let refused = |error: moewe_engine::Error| Refusal::field("messages", error.to_string());
        let rendered = template.render_with(&self.messages, !self.continues, variables).map_err(refused)?;
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

fn message(at: usize, value: Value) -> Result<Message, Refusal> {
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
        arguments(at, calls)?;
    }
    entries.retain(|_, value| !value.is_null());
    entries.insert("content".into(), content.into());
    Message::try_from(entries).map_err(|what| wrong("", what))
}

/// Templates want the arguments of a call as an object; clients send them as its JSON.
fn arguments(at: usize, calls: &mut Value) -> Result<(), Refusal> {
    let path = format!("messages[{at}].tool_calls");
    let calls = calls.as_array_mut().ok_or_else(|| Refusal::field(&path, "expected a list"))?;
    for (number, call) in calls.iter_mut().enumerate() {
        let arguments = call.pointer_mut("/function/arguments");
        if let Some(Value::String(text)) = arguments {
            let value = serde_json::from_str::<Map<String, Value>>(text).map_err(|error| {
                Refusal::field(format!("{path}[{number}].function.arguments"), error.to_string())
            })?;
            call["function"]["arguments"] = Value::Object(value);
        }
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
