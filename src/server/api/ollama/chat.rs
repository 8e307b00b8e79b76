//! `POST /api/chat`.

use super::options::{Making, Usual};
use super::tell::{Teller, answer_to_nothing};
use crate::server::Shared;
use crate::server::api::choosing::refuse_unless_neutral;
use crate::server::api::requests::requests;
use crate::server::api::tell::{OLLAMA, tell};
use crate::server::body::Body;
use crate::server::chat::Chat;
use crate::server::messages::{Messages, Tail};
use crate::server::refusal::Refusal;
use crate::server::tools::{Choice, Tools};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

requests! {
    /// A chat of Ollama's.
    OllamaChatRequest { own: OllamaChat, usual: Usual }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct OllamaChat {
    /// Turns with `role`, `content`, and where they have them `thinking`, `tool_calls` and `tool_name`.
    #[schema(value_type = Vec<Value>)]
    messages: Option<Vec<Value>>,
    tools: Option<Vec<Value>>,
}

/// Answers in a conversation, as Ollama's clients want it.
#[utoipa::path(post, path = "/api/chat", request_body = OllamaChatRequest, responses(
    (status = 200, description = "The answer; with `stream`, which is usual, as application/x-ndjson", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn chat(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let (usual, own): (Usual, OllamaChat) = (body.read()?, body.read()?);
    let making = usual.making(&body, &model, shared.settings.strict_model)?;
    let turns = own.messages.unwrap_or_default();
    if turns.is_empty() {
        return Ok(Json(answer_to_nothing(&model, usual.nothing(), true)).into_response());
    }
    let variables = usual.variables(&model)?;
    let Making { sampling, format, stops, limit, odds, reuses, streams } = making;
    let chat = Chat {
        messages: Messages::read(Some(read(&turns)?.into()), Tail::default())?,
        tools: Tools { list: own.tools.unwrap_or_default(), choice: Choice::Auto, several: true },
        variables,
        format,
        sampling,
        stops,
        limit,
        count: 1,
        odds,
        reuses,
        progress: false,
    };
    let answers = chat.submit(&shared, &model).await?;
    tell(answers, Teller::new(model, odds.is_some(), None), &OLLAMA, streams, "").await
}

/// Turns in OpenAI's shape. Calls have no identifiers here: their order and the tools' names say which answer is whose.
fn read(turns: &[Value]) -> Result<Vec<Value>, Refusal> {
    let mut open: Vec<(String, String)> = vec![]; // calls without an answer: identifier and name
    let mut calls = 0;
    let mut read = vec![];
    for (at, turn) in turns.iter().enumerate() {
        let Some(turn) = turn.as_object() else {
            return Err(Refusal::field(format!("messages[{at}]"), "expected an object"));
        };
        let images = turn.get("images");
        refuse_unless_neutral(&format!("messages[{at}].images"), images)?;
        let content = turn.get("content").cloned().unwrap_or_else(|| "".into());
        let mut message = json!({ "role": turn.get("role"), "content": content });
        if let Some(thought) = turn.get("thinking").filter(|thought| *thought != "") {
            message["reasoning_content"] = thought.clone();
        }
        if let Some(list) = turn.get("tool_calls").and_then(Value::as_array).filter(|list| !list.is_empty()) {
            let mut called = vec![];
            for call in list {
                let (id, function) = (format!("call_{calls}"), &call["function"]);
                calls += 1;
                open.push((id.clone(), function["name"].as_str().unwrap_or_default().to_owned()));
                called.push(json!({ "id": id, "type": "function", "function": function }));
            }
            message["tool_calls"] = called.into();
        }
        if message["role"] == "tool" {
            let name = turn.get("tool_name").or(turn.get("name")).and_then(Value::as_str);
            let place = open.iter().position(|(_, open)| name.is_none_or(|name| name == open));
            let id = place.map_or_else(|| format!("call_{calls}"), |place| open.remove(place).0);
            message["tool_call_id"] = id.into();
            message["name"] = name.into();
        }
        read.push(message);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_calls() {
        let turns = [
            json!({ "role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [
                { "function": { "name": "a", "arguments": { "x": 1 } } },
                { "function": { "name": "b", "arguments": {} } },
            ] }),
            json!({ "role": "tool", "tool_name": "b", "content": "B" }),
            json!({ "role": "tool", "content": "A" }),
        ];
        let read = read(&turns).unwrap();
        assert_eq!(
            (&read[0]["tool_calls"][1]["id"], &read[0]["reasoning_content"]),
            (&json!("call_1"), &json!("Hm."))
        );
        assert_eq!(
            (&read[1]["tool_call_id"], &read[2]["tool_call_id"]),
            (&json!("call_1"), &json!("call_0"))
        );
    }
}
