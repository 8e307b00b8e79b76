//! An answer as a message of blocks, whole or in events; a block is a part of the answer.

use crate::server::api::answer::{Answer, News, Part};
use crate::server::api::identifier;
use crate::server::api::tell::Tell;
use crate::server::scheduler::{Event, Usage};
use moewe_engine::generate::Ending;
use serde_json::{Value, json};

/// Tells it.
pub(in crate::server::api) struct Teller {
    head: Value,
    stops: Vec<String>, // those that were asked for
    answer: Answer,
    is_open: bool, // the last block
}

impl Teller {
    pub(super) fn new(model: &str, stops: Vec<String>) -> Self {
        let head = json!({
            "id": identifier("msg_"), "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null,
        });
        Self { head, stops, answer: Answer::default(), is_open: false }
    }

    /// The stop sequence that ended it, if it was one of the request's.
    fn stop(&self) -> Option<&str> {
        self.answer.stop.as_deref().filter(|stop| self.stops.iter().any(|own| own == stop))
    }

    fn reason(&self) -> Option<&'static str> {
        Some(match self.answer.ending? {
            _ if self.answer.wants_tools() => "tool_use",
            Ending::Limit | Ending::ContextFull => "max_tokens",
            Ending::StopString if self.stop().is_some() => "stop_sequence",
            Ending::EndOfText | Ending::StopString | Ending::Stopped => "end_turn",
        })
    }

    fn close(&mut self, part: usize, events: &mut Vec<Value>) {
        if std::mem::replace(&mut self.is_open, false) {
            if matches!(self.answer.parts[part], Part::Thought(_)) {
                // Clients wait for a signature. Nobody checks it here: it is empty.
                let delta = json!({ "type": "signature_delta", "signature": "" });
                events.push(json!({ "type": "content_block_delta", "index": part, "delta": delta }));
            }
            events.push(json!({ "type": "content_block_stop", "index": part }));
        }
    }

    fn tell(&mut self, news: &News, events: &mut Vec<Value>) {
        if news.begins {
            self.close(news.part.saturating_sub(1), events);
            let block = match &self.answer.parts[news.part] {
                Part::Thought(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
                Part::Text(_) => json!({ "type": "text", "text": "" }),
                Part::Call(call) => {
                    let id = format!("toolu_{}", call.id);
                    json!({ "type": "tool_use", "id": id, "name": call.name, "input": {} })
                }
            };
            self.is_open = true;
            events.push(json!({ "type": "content_block_start", "index": news.part, "content_block": block }));
        }
        if news.text.is_empty() {
            return;
        }
        let delta = match &self.answer.parts[news.part] {
            Part::Thought(_) => json!({ "type": "thinking_delta", "thinking": news.text }),
            Part::Text(_) => json!({ "type": "text_delta", "text": news.text }),
            Part::Call(_) => json!({ "type": "input_json_delta", "partial_json": news.text }),
        };
        events.push(json!({ "type": "content_block_delta", "index": news.part, "delta": delta }));
    }
}

/// Tokens that were known count apart from the others.
fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    })
}

impl Tell for Teller {
    fn begin(&mut self, known: &Usage) -> Vec<Value> {
        let mut message = self.head.clone();
        message["usage"] = usage(known);
        vec![json!({ "type": "message_start", "message": message })]
    }

    fn say(&mut self, _: usize, event: Event) -> Vec<Value> {
        let mut events = vec![];
        for news in self.answer.take(event) {
            self.tell(&news, &mut events);
        }
        if let Some(reason) = self.reason() {
            self.close(self.answer.parts.len().saturating_sub(1), &mut events);
            events.push(json!({
                "type": "message_delta",
                "delta": { "stop_reason": reason, "stop_sequence": self.stop() },
                "usage": usage(&self.answer.usage),
            }));
        }
        events
    }

    fn end(&mut self) -> Vec<Value> {
        vec![json!({ "type": "message_stop" })]
    }

    fn keep(&mut self, _: usize, event: Event) {
        self.answer.take(event);
    }

    fn whole(&mut self) -> Option<Value> {
        let reason = self.reason()?;
        let block = |part: &Part| match part {
            Part::Thought(text) => Some(json!({ "type": "thinking", "thinking": text, "signature": "" })),
            Part::Text(text) => Some(json!({ "type": "text", "text": text })),
            // Half of a call's arguments are none; the reason says that the answer was cut.
            Part::Call(call) => {
                let id = format!("toolu_{}", call.id);
                let input = call.object()?;
                Some(json!({ "type": "tool_use", "id": id, "name": call.name, "input": input }))
            }
        };
        let mut message = self.head.clone();
        message["content"] = self.answer.parts.iter().filter_map(block).collect();
        message["stop_reason"] = reason.into();
        message["stop_sequence"] = self.stop().into();
        message["usage"] = usage(&self.answer.usage);
        Some(message)
    }
}
