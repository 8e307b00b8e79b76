//! Answers told as a whole or event by event: what all interfaces share of that, and how each of them frames its events.

use crate::server::ask::{Answers, Heard};
use crate::server::interface::Interface;
use crate::server::refusal::Refusal;
use crate::server::scheduler::{Event, Failure, Usage};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// After so long without an event a ping keeps the connection open.
pub(in crate::server) const SILENCE: Duration = Duration::from_secs(15);

/// A client that waits for all at once hears nothing in between.
const LONG: Duration = Duration::from_secs(3600);

/// Of server-sent events: a comment, which keeps the connection open.
pub(in crate::server) const COMMENT: &str = ": ping\n\n";

/// How events are written down.
pub(in crate::server) struct Framing {
    /// Whose words errors are told in.
    interface: Interface,
    shape: Shape,
    /// What is said where nothing happens.
    ping: &'static str,
    /// After how long.
    silence: Duration,
    /// What follows the last event of an answer that ended well.
    done: &'static str,
}

#[derive(Clone, Copy)]
enum Shape {
    /// Server-sent events.
    Events,
    /// The same, called by their `type`.
    Named,
    /// JSON, line by line.
    Lines,
}

const PLAIN: Framing =
    Framing { interface: Interface::Native, shape: Shape::Events, ping: COMMENT, silence: SILENCE, done: "" };
/// OpenAI's chats and completions.
pub(super) static OPENAI: Framing =
    Framing { interface: Interface::OpenAi, shape: Shape::Events, done: "data: [DONE]\n\n", ..PLAIN };
/// OpenAI's responses.
pub(super) static RESPONSES: Framing = Framing { interface: Interface::OpenAi, shape: Shape::Named, ..PLAIN };
/// Anthropic's messages.
pub(super) static ANTHROPIC: Framing = Framing {
    interface: Interface::Anthropic,
    shape: Shape::Named,
    ping: "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    ..PLAIN
};
/// Ollama's chats and completions.
pub(super) static OLLAMA: Framing =
    Framing { interface: Interface::Ollama, shape: Shape::Lines, ping: "", ..PLAIN };
/// llama-server's completions.
pub(in crate::server) static NATIVE: Framing = PLAIN;

impl Framing {
    fn write(&self, events: &[Value]) -> String {
        let write = |event: &Value| match self.shape {
            Shape::Events => format!("data: {event}\n\n"),
            Shape::Named => {
                format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("error"))
            }
            Shape::Lines => format!("{event}\n"),
        };
        events.iter().map(write).collect()
    }

    /// A response whose body comes in pieces.
    pub(in crate::server) fn response(&self, body: Body) -> Response {
        let kind = match self.shape {
            Shape::Lines => "application/x-ndjson",
            Shape::Events | Shape::Named => "text/event-stream",
        };
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-cache"),
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, body).into_response()
    }
}

/// Tells answers in an interface's words.
pub(super) trait Tell: Send + 'static {
    /// Events at the beginning; the first prompt's tokens are counted.
    fn begin(&mut self, usage: &Usage) -> Vec<Value>;

    /// What an event of the answer with this number says, often nothing.
    fn say(&mut self, index: usize, event: Event) -> Vec<Value>;

    /// Events at the end.
    fn end(&mut self) -> Vec<Value>;

    /// What is said of an error in the midst of it, which `error` tells in the interface's words; then it ends.
    fn fail(&mut self, error: Value) -> Vec<Value> {
        vec![error]
    }

    /// Keeps what an event brings for the whole.
    fn keep(&mut self, index: usize, event: Event);

    /// All that was kept; `None` where an answer has not ended.
    fn whole(&mut self) -> Option<Value>;
}

/// The answers, as they come or as a whole. Where the client goes away they are cancelled.
///
/// # Errors
/// What goes wrong before the first of them begins; later ones stand in the stream.
pub(super) async fn tell<T: Tell>(
    mut answers: Answers,
    teller: T,
    framing: &'static Framing,
    streams: bool,
    request: &str,
) -> Result<Response, Refusal> {
    let usage = answers.begun().await?;
    if streams {
        Ok(stream(answers, teller, framing, &usage, request.to_owned()))
    } else {
        Ok(Json(whole(answers, teller).await?).into_response())
    }
}

/// The answers as a whole.
///
/// # Errors
/// What goes wrong with any of them.
pub(super) async fn whole<T: Tell>(mut answers: Answers, mut teller: T) -> Result<Value, Refusal> {
    loop {
        match answers.next(LONG).await {
            Heard::Silence => {}
            Heard::Event(_, Event::Failed(failure)) => return Err(failure.into()),
            Heard::Event(index, event) => teller.keep(index, event),
            Heard::End => break,
        }
    }
    teller.whole().ok_or_else(|| Failure::Closing.into())
}

fn stream<T: Tell>(
    answers: Answers,
    mut teller: T,
    framing: &'static Framing,
    usage: &Usage,
    request: String,
) -> Response {
    let first = framing.write(&teller.begin(usage));
    let state = Some((answers, teller, request, Some(first)));
    let body = unfold(state, move |state| async move {
        let (mut answers, mut teller, request, first) = state?;
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok::<_, Infallible>(Bytes::from(first)), Some((answers, teller, request, None))));
        }
        loop {
            let text = match answers.next(framing.silence).await {
                Heard::Silence => framing.ping.to_owned(),
                Heard::Event(_, Event::Failed(failure)) => {
                    // Nothing says that it is done: clients would take it for a success.
                    let error = Refusal::from(failure).json(framing.interface, &request);
                    return Some((Ok(framing.write(&teller.fail(error)).into()), None));
                }
                Heard::Event(index, event) => framing.write(&teller.say(index, event)),
                // Whoever computed it is gone.
                Heard::End if teller.whole().is_none() => {
                    let error = Refusal::from(Failure::Closing).json(framing.interface, &request);
                    return Some((Ok(framing.write(&teller.fail(error)).into()), None));
                }
                Heard::End => {
                    let end = framing.write(&teller.end()) + framing.done;
                    return Some((Ok(end.into()), None));
                }
            };
            if !text.is_empty() {
                return Some((Ok(text.into()), Some((answers, teller, request, None))));
            }
        }
    });
    framing.response(Body::from_stream(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::api::openai::responses;
    use axum::body::BodyDataStream;
    use futures_util::StreamExt;
    use moewe_engine::generate::Ending;
    use tokio::sync::mpsc::channel;

    async fn next(body: &mut BodyDataStream) -> Option<String> {
        Some(String::from_utf8(body.next().await?.unwrap().to_vec()).unwrap())
    }

    /// Silence is broken by pings in the interface's way, and changes nothing of what follows.
    #[tokio::test]
    async fn silence_is_no_end() {
        for (framing, is_told) in
            [(&OPENAI, true), (&RESPONSES, true), (&ANTHROPIC, true), (&NATIVE, true), (&OLLAMA, false)]
        {
            assert_eq!(framing.silence, SILENCE);
            let silence = Duration::from_millis(1);
            let framing: &'static Framing = Box::leak(Box::new(Framing { silence, ..*framing }));
            let (sender, events) = channel(8);
            sender.try_send((0, Event::Begun { usage: Usage::default() })).unwrap();
            let response = tell(Answers::of(events), responses::teller(), framing, true, "").await.unwrap();
            let mut body = response.into_body().into_data_stream();
            assert!(next(&mut body).await.unwrap().contains("response.created"));
            if is_told {
                for _ in 0..3 {
                    assert_eq!(next(&mut body).await.unwrap(), framing.ping);
                }
            } else {
                let heard = tokio::time::timeout(silence * 20, next(&mut body)).await;
                assert!(framing.ping.is_empty() && heard.is_err(), "{heard:?}");
            }
            let ended = Event::Ended {
                ending: Ending::EndOfText,
                stop: None,
                pieces: vec![],
                usage: Usage::default(),
            };
            sender.try_send((0, ended)).unwrap();
            drop(sender);
            let mut rest = String::new();
            while let Some(more) = next(&mut body).await {
                rest += &more;
            }
            assert!(rest.contains("response.completed") && rest.ends_with(framing.done), "{rest}");
        }
    }
}
