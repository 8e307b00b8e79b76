//! `POST /v1/responses`: conversations as lists of items, each of which the client brings along every time.

mod items;
mod tell;

use crate::server::Shared;
use crate::server::api::choosing::{Choosing, refuse_unless_neutral};
use crate::server::api::count_tokens;
use crate::server::api::requests::requests;
use crate::server::api::tell::{RESPONSES, tell as tell_answers};
use crate::server::body::Body;
use crate::server::chat::Chat;
use crate::server::format::Format;
use crate::server::messages::{Messages, Tail, variables};
use crate::server::model::Model;
use crate::server::refusal::Refusal;
use crate::server::tools::{Choice, Tools};
use axum::Json;
use axum::extract::State;
use axum::response::Response as HttpResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tell::Teller;
use utoipa::ToSchema;

requests! {
    /// A response.
    ResponseRequest { own: Response, choosing: Choosing }
}

#[derive(Deserialize, ToSchema)]
pub(in crate::server::api) struct Response {
    /// A text, or a list of items: `message`, `function_call`, `function_call_output` and `reasoning`.
    input: Option<Value>,
    /// What stands before it as the system's words.
    instructions: Option<String>,
    /// Most tokens of an answer.
    max_output_tokens: Option<u64>,
    /// Functions with `name`, `description` and `parameters`.
    tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or a function by its name.
    tool_choice: Option<Value>,
    /// Whether one answer may call several tools.
    parallel_tool_calls: Option<bool>,
    /// `format` has the type `text`, `json_object`, or `json_schema` with a `schema`.
    text: Option<Value>,
    /// `effort` is a variable of the template; `none` asks the model not to think.
    reasoning: Option<Value>,
    /// How far the prompt has been read, in events of a stream.
    return_progress: Option<bool>,
    /// `timings` in a stream's deltas and its last event.
    timings_per_token: Option<bool>,
    /// Not supported: nothing is kept here.
    previous_response_id: Option<Value>,
    /// Not supported.
    conversation: Option<Value>,
    /// Not supported.
    background: Option<Value>,
    /// Not supported.
    prompt: Option<Value>,
    /// Not supported.
    top_logprobs: Option<Value>,
}

impl Response {
    fn refuse_what_we_have_not(&self) -> Result<(), Refusal> {
        for (name, value) in [
            ("previous_response_id", self.previous_response_id.as_ref()),
            ("conversation", self.conversation.as_ref()),
            ("background", self.background.as_ref()),
            ("prompt", self.prompt.as_ref()),
            ("top_logprobs", self.top_logprobs.as_ref()),
        ] {
            refuse_unless_neutral(name, value)?;
        }
        Ok(())
    }

    fn format(&self) -> Option<&Value> {
        self.text.as_ref().and_then(|text| text.get("format"))
    }

    fn tools(&self) -> Result<Tools, Refusal> {
        let tool = |(at, tool): (usize, &Value)| {
            if tool["type"] != "function" {
                let message = format!("this server runs no tools of its own, such as {}", tool["type"]);
                return Err(Refusal::field(format!("tools[{at}].type"), message));
            }
            let mut function = tool.as_object().cloned().unwrap_or_default();
            function.remove("type");
            Ok(json!({ "type": "function", "function": function }))
        };
        let given = self.tools.as_deref().unwrap_or_default();
        let list = given.iter().enumerate().map(tool).collect::<Result<_, _>>()?;
        let choice = match self.tool_choice.as_ref().filter(|choice| !choice.is_null()) {
            None => Choice::Auto,
            Some(choice) => match (choice.as_str(), choice["name"].as_str()) {
                (Some("none"), _) => Choice::None,
                (Some("auto"), _) => Choice::Auto,
                (Some("required"), _) => Choice::Required,
                (None, Some(name)) => Choice::Named(name.to_owned()),
                _ => {
                    return Err(Refusal::field("tool_choice", "expected none, auto, required or a function"));
                }
            },
        };
        Ok(Tools { list, choice, several: self.parallel_tool_calls.unwrap_or(true) })
    }

    /// The conversation that it means.
    fn read(&self, choosing: &Choosing, model: &Model) -> Result<Chat, Refusal> {
        self.refuse_what_we_have_not()?;
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.get("effort"));
        let messages = items::read(self.input.as_ref(), self.instructions.as_deref())?;
        let limits = [choosing.max_tokens, self.max_output_tokens];
        Ok(Chat {
            messages: Messages::read(Some(messages), Tail::default())?,
            tools: self.tools()?,
            variables: variables(model, effort, None)?,
            format: Format::of_response(self.format())?,
            sampling: choosing.sampling(model)?,
            stops: choosing.stops()?,
            limit: limits.into_iter().flatten().min().map(|limit| limit as usize),
            count: 1,
            odds: None,
            reuses: choosing.reuses(),
            progress: choosing.streams() && self.return_progress == Some(true),
        })
    }

    /// What an answer says of its request.
    fn echo(&self, chat: &Chat) -> Map<String, Value> {
        let echo = json!({
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": null,
            "reasoning": self.reasoning.clone().unwrap_or_else(|| json!({ "effort": null, "summary": null })),
            "store": false,
            "temperature": chat.sampling.temperature,
            "text": { "format": self.format().cloned().unwrap_or_else(|| json!({ "type": "text" })) },
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": self.tools.clone().unwrap_or_default(),
            "top_p": chat.sampling.top_p,
            "truncation": "disabled",
        });
        echo.as_object().cloned().unwrap_or_default()
    }
}

/// Answers to a list of items.
#[utoipa::path(post, path = "/v1/responses", request_body = ResponseRequest, responses(
    (status = 200, description = "The answer; with `stream` as text/event-stream", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
    (status = "5XX", description = "The server is busy, loading, ending, or at fault", body = Value),
))]
pub(in crate::server) async fn respond(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<HttpResponse, Refusal> {
    let model = shared.model()?.clone();
    let (choosing, own): (Choosing, Response) = (body.read()?, body.read()?);
    choosing.is_for(&model, shared.settings.strict_model)?;
    let chat = own.read(&choosing, &model)?;
    let mut teller = Teller::new(&model.name, own.echo(&chat));
    teller.has_timings = own.timings_per_token == Some(true);
    let answers = chat.submit(&shared, &model).await?;
    tell_answers(answers, teller, &RESPONSES, choosing.streams(), "").await
}

/// Counts the tokens of a list of items.
#[utoipa::path(post, path = "/v1/responses/input_tokens", request_body = ResponseRequest, responses(
    (status = 200, description = "The count", body = Value),
    (status = "4XX", description = "The request is wrong", body = Value),
))]
pub(in crate::server) async fn count(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let read = |own: Response, choosing: &Choosing, model: &Model| own.read(choosing, model);
    let tokens = count_tokens(&shared, &body, read).await?;
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": tokens })))
}

/// Tells one answer.
#[cfg(test)]
pub(in crate::server::api) fn teller() -> Teller {
    Teller::new("gull", Map::new())
}
