//! Anthropic's interface: messages of blocks, as Claude Code and its kin send them.

mod tell;
mod turns;

use crate::server::Shared;
use crate::server::api::RequestId;
use crate::server::api::choosing::{self, Choosing};
use crate::server::api::count_tokens;
use crate::server::api::requests::requests;
use crate::server::api::tell::{ANTHROPIC, tell as tell_answers};
use crate::server::body::{Body, within};
use crate::server::chat::Chat;
use crate::server::messages::{Messages, Tail, variables};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::tools::{Choice, Tools};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tell::Teller;
use utoipa::ToSchema;

/// Of an answer whose request says nothing, which Anthropic's own server refuses.
const USUAL_LIMIT: u64 = 4096;

requests! {
    /// A message of Anthropic's.
    MessagesRequest { own: AnthropicMessages, choosing: Choosing }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct AnthropicMessages {
    /// Turns of `user` and `assistant`, whose `content` is a text or a list of blocks: `text`, `tool_use`, `tool_result`
    /// and `thinking`.
    #[schema(value_type = Vec<Value>)]
    messages: Option<Value>,
    /// A text or a list of text blocks.
    system: Option<Value>,
    /// Texts that end an answer and are no part of it.
    stop_sequences: Option<Vec<String>>,
    /// `name`, `description` and `input_schema` of each.
    tools: Option<Vec<Value>>,
    /// `auto`, `any`, `tool` with a `name`, or `none`, as its `type`.
    tool_choice: Option<Value>,
    /// Whether the model is to think, `enabled` or `disabled` as its `type`.
    thinking: Option<Value>,
}

impl AnthropicMessages {
    fn tools(&self) -> Result<Tools, Refusal> {
        let given = self.tools.as_deref().unwrap_or_default();
        let tool = |(at, tool): (usize, &Value)| {
            if tool.get("type").is_some_and(|kind| !kind.is_null() && kind != "custom") {
                let message = format!("this server runs no tools of its own, such as {}", tool["type"]);
                return Err(Refusal::field(format!("tools[{at}].type"), message));
            }
            let name = tool["name"].as_str();
            let name =
                name.ok_or_else(|| Refusal::field(format!("tools[{at}].name"), "expected a string"))?;
            if !tool["input_schema"].is_object() {
                return Err(Refusal::field(format!("tools[{at}].input_schema"), "expected an object"));
            }
            let mut function = json!({ "name": name, "parameters": tool["input_schema"] });
            if let Some(description) = tool.get("description").filter(|text| !text.is_null()) {
                function["description"] = description.clone();
            }
            Ok(json!({ "type": "function", "function": function }))
        };
        let list = given.iter().enumerate().map(tool).collect::<Result<_, _>>()?;
        let wanted = self.tool_choice.as_ref().filter(|choice| !choice.is_null());
        let choice = match wanted.map(|choice| (choice["type"].as_str(), choice["name"].as_str())) {
            None | Some((Some("auto"), _)) => Choice::Auto,
            Some((Some("any"), _)) => Choice::Required,
            Some((Some("none"), _)) => Choice::None,
            Some((Some("tool"), Some(name))) => Choice::Named(name.to_owned()),
            Some((Some("tool"), None)) => {
                return Err(Refusal::field("tool_choice.name", "expected a string"));
            }
            Some(_) => return Err(Refusal::field("tool_choice.type", "expected auto, any, tool or none")),
        };
        let is_single = wanted.is_some_and(|choice| choice["disable_parallel_tool_use"] == true);
        Ok(Tools { list, choice, several: !is_single })
    }

    /// Variables of the template.
    fn variables(&self, model: &Model) -> Result<Map<String, Value>, Refusal> {
        let thinks = match self.thinking.as_ref().map(|thinking| &thinking["type"]) {
            None => return variables(model, None, None),
            Some(kind) if kind == "enabled" || kind == "adaptive" => true,
            Some(kind) if kind == "disabled" => false,
            Some(_) => return Err(Refusal::field("thinking.type", "expected enabled or disabled")),
        };
        variables(model, None, Some(&Map::from_iter([("enable_thinking".to_owned(), thinks.into())])))
    }

    /// The conversation that it means.
    fn read(self, choosing: &Choosing, model: &Model) -> Result<Chat, Refusal> {
        let (tools, variables) = (self.tools()?, self.variables(model)?);
        let messages = turns::read(self.messages.as_ref(), self.system.as_ref())?;
        let limit = choosing.max_tokens.unwrap_or(USUAL_LIMIT);
        Ok(Chat {
            messages: Messages::read(Some(messages), Tail::default())?,
            tools,
            variables,
            format: choosing.format(None)?,
            sampling: choosing.sampling(model)?,
            stops: choosing::stops("stop_sequences", self.stop_sequences.as_deref().unwrap_or_default())?,
            limit: Some(within("max_tokens", limit, 1, u64::MAX)? as usize),
            count: 1,
            odds: None,
            reuses: choosing.reuses(),
            progress: false,
        })
    }
}

/// Answers in a conversation, as Anthropic's clients want it.
#[utoipa::path(post, path = "/v1/messages", request_body = MessagesRequest, responses(
    (status = 200, description = "The answer; with `stream` as text/event-stream", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn messages(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request)): Extension<RequestId>,
    body: Body,
) -> Result<Response, Refusal> {
    let model = shared.model()?.clone();
    let (choosing, own): (Choosing, AnthropicMessages) = (body.read()?, body.read()?);
    choosing.is_for(&model, shared.settings.strict_model)?;
    if choosing.max_tokens.is_none() {
        tracing::warn!("a request to /v1/messages has no max_tokens: {USUAL_LIMIT} is taken");
    }
    let chat = own.read(&choosing, &model)?;
    let teller = Teller::new(&model.name, chat.stops.clone());
    let answers = chat.submit(&shared, &model).await?;
    tell_answers(answers, teller, &ANTHROPIC, choosing.streams(), &request).await
}

/// Counts the tokens of such a conversation.
#[utoipa::path(post, path = "/v1/messages/count_tokens", request_body = MessagesRequest, responses(
    (status = 200, description = "The count", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
))]
pub(in crate::server) async fn count(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let read = |own: AnthropicMessages, choosing: &Choosing, model: &Model| own.read(choosing, model);
    let tokens = count_tokens(&shared, &body, read).await?;
    Ok(Json(json!({ "input_tokens": tokens })))
}

/// Tells one answer.
#[cfg(test)]
pub(in crate::server::api) fn teller(stops: Vec<String>) -> Teller {
    Teller::new("gull", stops)
}
