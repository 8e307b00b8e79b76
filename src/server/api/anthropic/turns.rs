//! Turns of blocks as messages of OpenAI's shape: results of tools become turns of their own, in the place where they
//! stand.

use crate::server::refusal::Refusal;
use serde_json::{Value, json};

/// The messages of a conversation.
///
/// # Errors
/// The first block that is none, or of a kind that no text is, by its path.
pub(super) fn read(messages: Option<&Value>, system: Option<&Value>) -> Result<Value, Refusal> {
    let Some(turns) = messages.and_then(Value::as_array) else {
        return Err(Refusal::field("messages", "expected a list of messages"));
    };
    if turns.is_empty() {
        return Err(Refusal::field("messages", "expected at least one"));
    }
    let mut read = vec![];
    if let Some(system) = system.filter(|system| !system.is_null()) {
        let text = texts(system, "system", "\n")?;
        if !text.is_empty() {
            read.push(json!({ "role": "system", "content": text }));
        }
    }
    for (at, turn) in turns.iter().enumerate() {
        let path = format!("messages[{at}]");
        match turn["role"].as_str() {
            Some("user") => user(&turn["content"], &path, &mut read)?,
            Some("assistant") => read.push(assistant(&turn["content"], &path)?),
            _ => return Err(Refusal::field(path + ".role", "expected user or assistant")),
        }
    }
    Ok(read.into())
}

/// A text, or the texts of blocks that are nothing else.
fn texts(content: &Value, path: &str, between: &str) -> Result<String, Refusal> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let text = |(at, block)| text(block, &format!("{path}[{at}]"));
            Ok(blocks.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join(between))
        }
        _ => Err(Refusal::field(path, "expected a string or a list of blocks")),
    }
}

fn text(block: &Value, path: &str) -> Result<String, Refusal> {
    match (block["type"].as_str(), block["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some("text"), None) => Err(Refusal::field(format!("{path}.text"), "expected a string")),
        (Some(kind), _) => Err(Refusal::field(path, format!("this model reads text, not {kind}"))),
        (None, _) => Err(Refusal::field(format!("{path}.type"), "expected the kind of a block")),
    }
}

fn string<'v>(block: &'v Value, key: &str, path: &str) -> Result<&'v str, Refusal> {
    block[key].as_str().ok_or_else(|| Refusal::field(format!("{path}.{key}"), "expected a string"))
}

/// What a person says, and what tools answered.
fn user(content: &Value, path: &str, read: &mut Vec<Value>) -> Result<(), Refusal> {
    let path = format!("{path}.content");
    let Some(blocks) = content.as_array() else {
        read.push(json!({ "role": "user", "content": texts(content, &path, "")? }));
        return Ok(());
    };
    let mut said: Option<String> = None;
    let say = |said: &mut Option<String>, read: &mut Vec<Value>| {
        read.extend(said.take().map(|text| json!({ "role": "user", "content": text })));
    };
    for (at, block) in blocks.iter().enumerate() {
        let path = format!("{path}[{at}]");
        if block["type"] == "tool_result" {
            say(&mut said, read);
            let id = string(block, "tool_use_id", &path)?;
            let content = match &block["content"] {
                Value::Null => String::new(),
                content => texts(content, &format!("{path}.content"), "")?,
            };
            read.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
        } else {
            said.get_or_insert_default().push_str(&text(block, &path)?);
        }
    }
    if blocks.is_empty() {
        said = Some(String::new());
    }
    say(&mut said, read);
    Ok(())
}

/// What the model thought, said and called.
fn assistant(content: &Value, path: &str) -> Result<Value, Refusal> {
    let path = format!("{path}.content");
    let Some(blocks) = content.as_array() else {
        return Ok(json!({ "role": "assistant", "content": texts(content, &path, "")? }));
    };
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), vec![]);
    for (at, block) in blocks.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match block["type"].as_str() {
            Some("thinking") => thought.push_str(string(block, "thinking", &path)?),
            // Nobody can read it.
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                if !block["input"].is_object() {
                    return Err(Refusal::field(format!("{path}.input"), "expected an object"));
                }
                calls.push(json!({
                    "id": string(block, "id", &path)?,
                    "type": "function",
                    "function": { "name": string(block, "name", &path)?, "arguments": block["input"] },
                }));
            }
            _ => said.push_str(&text(block, &path)?),
        }
    }
    let mut message = json!({ "role": "assistant", "content": said });
    if !thought.is_empty() {
        message["reasoning_content"] = thought.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_messages() {
        let call = json!({ "type": "tool_use", "id": "toolu_1", "name": "fly", "input": { "to": "Kiel" } });
        let result = json!({ "type": "tool_result", "tool_use_id": "toolu_1", "content": [
            { "type": "text", "text": "gel" }, { "type": "text", "text": "andet" },
        ] });
        let text =
            |text: &str| json!({ "type": "text", "text": text, "cache_control": { "type": "ephemeral" } });
        let turns = json!([
            { "role": "user", "content": [text("Fl"), text("ieg!")] },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "Wohin?", "signature": "" }, text("Gut."), call,
            ] },
            { "role": "user", "content": [result, text("Danke."), ] },
        ]);
        let read = read(Some(&turns), Some(&json!([text("A"), text("B")]))).unwrap();
        assert_eq!(
            read,
            json!([
                { "role": "system", "content": "A\nB" },
                { "role": "user", "content": "Flieg!" },
                { "role": "assistant", "content": "Gut.", "reasoning_content": "Wohin?", "tool_calls": [{
                    "id": "toolu_1", "type": "function",
                    "function": { "name": "fly", "arguments": { "to": "Kiel" } },
                }] },
                { "role": "tool", "tool_call_id": "toolu_1", "content": "gelandet" },
                { "role": "user", "content": "Danke." },
            ])
        );
    }
}
