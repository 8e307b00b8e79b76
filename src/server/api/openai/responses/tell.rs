//! An answer as a response of items, whole or in events; an item is a part of the answer.

use crate::server::api::answer::{Answer, News, Part};
use crate::server::api::tell::Tell;
use crate::server::api::usage::{progress, timings};
use crate::server::api::{identifier, now};
use crate::server::scheduler::{Event, Usage};
use serde_json::{Map, Value, json};

/// Tells it.
pub(in crate::server::api) struct Teller {
    head: Map<String, Value>,
    echo: Map<String, Value>,
    /// How items are called, but for their prefix.
    item: String,
    answer: Answer,
    /// Whether deltas and the last event say what the answer took so far.
    pub(super) has_timings: bool,
    is_open: bool, // the last item
    said: u64,     // events
}

impl Teller {
    pub(super) fn new(model: &str, echo: Map<String, Value>) -> Self {
        let head = json!({
            "id": identifier("resp_"), "object": "response", "created_at": now(), "model": model,
        });
        let head = head.as_object().cloned().unwrap_or_default();
        let (item, answer) = (identifier(""), Answer::default());
        Self { head, echo, item, answer, has_timings: false, is_open: false, said: 0 }
    }

    fn status(&self) -> &'static str {
        match self.answer.ending {
            None => "in_progress",
            Some(_) if self.answer.is_cut() => "incomplete",
            Some(_) => "completed",
        }
    }

    fn response(&self) -> Value {
        let mut response = self.head.clone();
        let status = self.status();
        let is_cut = status == "incomplete";
        let last = self.answer.parts.len().saturating_sub(1);
        let item = |part| self.item(part, if part == last { status } else { "completed" });
        let items = (0..self.answer.parts.len()).map(item).collect::<Vec<_>>();
        response.insert("status".into(), status.into());
        response.insert("error".into(), Value::Null);
        let details = if is_cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
        response.insert("incomplete_details".into(), details);
        response.insert("output".into(), if self.answer.ending.is_some() { items.into() } else { json!([]) });
        response.insert("usage".into(), self.answer.ending.map_or(Value::Null, |_| self.usage()));
        response.extend(self.echo.clone());
        Value::Object(response)
    }

    fn usage(&self) -> Value {
        let usage = &self.answer.usage;
        json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": usage.cached_tokens, "cache_write_tokens": 0 },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": { "reasoning_tokens": self.answer.thoughts },
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        })
    }

    fn id(&self, part: usize) -> String {
        let prefix = match self.answer.parts[part] {
            Part::Thought(_) => "rs",
            Part::Text(_) => "msg",
            Part::Call(_) => "fc",
        };
        format!("{prefix}_{}{part}", self.item)
    }

    /// An item; one that is in progress has no content yet.
    fn item(&self, part: usize, status: &str) -> Value {
        let (id, is_new) = (self.id(part), status == "in_progress");
        let content = if is_new { json!([]) } else { json!([self.content(part, false)]) };
        match &self.answer.parts[part] {
            Part::Thought(_) => {
                json!({ "id": id, "type": "reasoning", "summary": [], "content": content, "status": status })
            }
            Part::Text(_) => json!({
                "id": id, "type": "message", "role": "assistant", "content": content, "status": status,
            }),
            Part::Call(call) => json!({
                "id": id, "type": "function_call", "call_id": format!("call_{}", call.id), "name": call.name,
                "arguments": if is_new { "" } else { &call.arguments }, "status": status,
            }),
        }
    }

    /// The content of an item, or what it begins with.
    fn content(&self, part: usize, is_new: bool) -> Value {
        match &self.answer.parts[part] {
            Part::Thought(text) => {
                json!({ "type": "reasoning_text", "text": if is_new { "" } else { text } })
            }
            Part::Text(text) => json!({
                "type": "output_text", "text": if is_new { "" } else { text }, "annotations": [], "logprobs": [],
            }),
            Part::Call(_) => Value::Null,
        }
    }

    /// An event, with its number and more fields.
    fn event(&mut self, kind: &str, fields: Value) -> Value {
        let mut event = json!({ "type": format!("response.{kind}"), "sequence_number": self.said });
        self.said += 1;
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        event
    }

    /// An event within an item.
    fn inside(&mut self, part: usize, kind: &str, fields: Value) -> Value {
        let mut all = json!({ "item_id": self.id(part), "output_index": part });
        if !matches!(self.answer.parts[part], Part::Call(_)) {
            all["content_index"] = 0.into();
        }
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields);
        }
        self.event(kind, all)
    }

    fn close(&mut self, part: usize, events: &mut Vec<Value>) {
        if !std::mem::replace(&mut self.is_open, false) {
            return;
        }
        let content = self.content(part, false);
        let (kind, fields) = match &self.answer.parts[part] {
            Part::Thought(text) => ("reasoning_text.done", json!({ "text": text })),
            Part::Text(text) => ("output_text.done", json!({ "text": text, "logprobs": [] })),
            Part::Call(call) => {
                let fields = json!({ "name": call.name, "arguments": call.arguments });
                ("function_call_arguments.done", fields)
            }
        };
        events.push(self.inside(part, kind, fields));
        if !content.is_null() {
            events.push(self.inside(part, "content_part.done", json!({ "part": content })));
        }
        // Whatever ends it, the next item comes after it; only the last one can have been cut.
        let is_last = part + 1 == self.answer.parts.len();
        let status = if is_last && self.answer.is_cut() { "incomplete" } else { "completed" };
        let fields = json!({ "output_index": part, "item": self.item(part, status) });
        events.push(self.event("output_item.done", fields));
    }

    fn tell(&mut self, news: &News, events: &mut Vec<Value>) {
        let part = news.part;
        if news.begins {
            self.close(part.saturating_sub(1), events);
            self.is_open = true;
            let fields = json!({ "output_index": part, "item": self.item(part, "in_progress") });
            events.push(self.event("output_item.added", fields));
            let content = self.content(part, true);
            if !content.is_null() {
                events.push(self.inside(part, "content_part.added", json!({ "part": content })));
            }
        }
        if news.text.is_empty() {
            return;
        }
        let (kind, fields) = match self.answer.parts[part] {
            Part::Thought(_) => ("reasoning_text.delta", json!({ "delta": news.text })),
            Part::Text(_) => ("output_text.delta", json!({ "delta": news.text, "logprobs": [] })),
            Part::Call(_) => ("function_call_arguments.delta", json!({ "delta": news.text })),
        };
        let mut event = self.inside(part, kind, fields);
        if self.has_timings {
            event["timings"] = timings(&self.answer.usage);
        }
        events.push(event);
    }
}

impl Tell for Teller {
    fn begin(&mut self, _: &Usage) -> Vec<Value> {
        let response = json!({ "response": self.response() });
        ["created", "in_progress"].map(|kind| self.event(kind, response.clone())).into()
    }

    fn say(&mut self, _: usize, event: Event) -> Vec<Value> {
        if let Event::Read { read, usage } = event {
            let fields = json!({ "response": self.response(), "prompt_progress": progress(read, &usage) });
            return vec![self.event("in_progress", fields)];
        }
        let mut events = vec![];
        for news in self.answer.take(event) {
            self.tell(&news, &mut events);
        }
        if self.answer.ending.is_some() {
            self.close(self.answer.parts.len().saturating_sub(1), &mut events);
        }
        events
    }

    fn end(&mut self) -> Vec<Value> {
        let mut fields = json!({ "response": self.response() });
        if self.has_timings {
            fields["timings"] = timings(&self.answer.usage);
        }
        vec![self.event(self.status(), fields)]
    }

    fn fail(&mut self, error: Value) -> Vec<Value> {
        let mut response = self.response();
        response["status"] = "failed".into();
        response["error"] = json!({ "code": "server_error", "message": error["error"]["message"] });
        vec![self.event("failed", json!({ "response": response }))]
    }

    fn keep(&mut self, _: usize, event: Event) {
        self.answer.take(event);
    }

    fn whole(&mut self) -> Option<Value> {
        self.answer.ending?;
        Some(self.response())
    }
}
