//! Items as messages: what the model thought, said and called in one turn is one message of the assistant's.

use crate::server::refusal::Refusal;
use serde_json::{Value, json};

/// The messages of a conversation.
///
/// # Errors
/// The first item that is none, or of a kind that cannot be, by its path.
pub(super) fn read(input: Option<&Value>, instructions: Option<&str>) -> Result<Value, Refusal> {
    let mut read = vec![];
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        read.push(json!({ "role": "system", "content": instructions }));
    }
    match input {
        Some(Value::String(text)) => read.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                add(item, &format!("input[{at}]"), &mut read)?;
            }
        }
        _ => return Err(Refusal::field("input", "expected a text or a list of at least one item")),
    }
    Ok(read.into())
}

fn string<'v>(item: &'v Value, key: &str, path: &str) -> Result<&'v str, Refusal> {
    item[key].as_str().ok_or_else(|| Refusal::field(format!("{path}.{key}"), "expected a string"))
}

fn add(item: &Value, path: &str, read: &mut Vec<Value>) -> Result<(), Refusal> {
    match item["type"].as_str() {
        None | Some("message") => {
            let role = string(item, "role", path)?;
            if !matches!(role, "system" | "developer" | "user" | "assistant") {
                let message = "expected system, developer, user or assistant";
                return Err(Refusal::field(format!("{path}.role"), message));
            }
            let text = texts(&item["content"], &format!("{path}.content"))?;
            let last = if role == "assistant" { unfinished(read) } else { None };
            match last.filter(|last| last["content"] == "" && last.get("tool_calls").is_none()) {
                Some(last) => last["content"] = text.into(),
                None => read.push(json!({ "role": role, "content": text })),
            }
        }
        Some("reasoning") => {
            let content = if item["content"].is_array() { &item["content"] } else { &item["summary"] };
            let text = texts(content, &format!("{path}.content"))?;
            read.push(json!({ "role": "assistant", "content": "", "reasoning_content": text }));
        }
        Some("function_call") => {
            let call = json!({
                "id": string(item, "call_id", path)?,
                "type": "function",
                "function": {
                    "name": string(item, "name", path)?, "arguments": string(item, "arguments", path)?,
                },
            });
            if unfinished(read).is_none() {
                read.push(json!({ "role": "assistant", "content": "" }));
            }
            if let Some(last) = read.last_mut() {
                match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                }
            }
        }
        Some("function_call_output") => {
            let id = string(item, "call_id", path)?;
            let text = texts(&item["output"], &format!("{path}.output"))?;
            read.push(json!({ "role": "tool", "tool_call_id": id, "content": text }));
        }
        Some(kind) => {
            let message =
                format!("expected message, function_call, function_call_output or reasoning, not {kind}");
            return Err(Refusal::field(format!("{path}.type"), message));
        }
    }
    Ok(())
}

/// The turn of the assistant that stands last.
fn unfinished(read: &mut [Value]) -> Option<&mut Value> {
    read.last_mut().filter(|last| last["role"] == "assistant")
}

/// A text, or the texts of parts.
fn texts(content: &Value, path: &str) -> Result<String, Refusal> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text = |(at, part): (usize, &Value)| match (part["type"].as_str(), part["text"].as_str()) {
                (
                    Some("input_text" | "output_text" | "text" | "reasoning_text" | "summary_text"),
                    Some(text),
                ) => Ok(text.to_owned()),
                (Some("refusal"), None) => Ok(part["refusal"].as_str().unwrap_or_default().to_owned()),
                (Some(kind), _) => {
                    Err(Refusal::field(format!("{path}[{at}]"), format!("this model reads text, not {kind}")))
                }
                (None, _) => Err(Refusal::field(format!("{path}[{at}].type"), "expected the kind of a part")),
            };
            parts.iter().enumerate().map(text).collect()
        }
        _ => Err(Refusal::field(path, "expected a string or a list of parts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let call =
            |id: &str| json!({ "type": "function_call", "call_id": id, "name": "fly", "arguments": "{}" });
        let items = json!([
            { "role": "user", "content": [{ "type": "input_text", "text": "Flieg" }, { "type": "input_text", "text": "!" }] },
            { "type": "reasoning", "id": "rs_1", "summary": [], "content": [{ "type": "reasoning_text", "text": "Wohin?" }] },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Gut.", "annotations": [] }] },
            call("call_1"),
            call("call_2"),
            { "type": "function_call_output", "call_id": "call_1", "output": "da" },
            { "type": "reasoning", "summary": [{ "type": "summary_text", "text": "Noch?" }] },
            call("call_3"),
        ]);
        let called = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "fly", "arguments": "{}" } });
        assert_eq!(
            read(Some(&items), Some("Kurz.")).unwrap(),
            json!([
                { "role": "system", "content": "Kurz." },
                { "role": "user", "content": "Flieg!" },
                {
                    "role": "assistant", "content": "Gut.", "reasoning_content": "Wohin?",
                    "tool_calls": [called("call_1"), called("call_2")],
                },
                { "role": "tool", "tool_call_id": "call_1", "content": "da" },
                {
                    "role": "assistant", "content": "", "reasoning_content": "Noch?",
                    "tool_calls": [called("call_3")],
                },
            ])
        );
    }
}
