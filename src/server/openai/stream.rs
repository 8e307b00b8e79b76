//! Answers that are told event by event, as server-sent events.

use super::super::ask::{Answers, Heard};
use super::super::refusal::Refusal;
use super::super::scheduler::Event;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// After so long without an event a comment keeps the connection open.
const SILENCE: Duration = Duration::from_secs(15);

/// Writes events in a dialect's words.
pub(super) trait Speak: Send + 'static {
    /// What stands at the beginning.
    fn begin(&mut self) -> Vec<Value>;

    /// What an event of the answer with this number says, often nothing.
    fn say(&mut self, index: usize, event: Event) -> Vec<Value>;

    /// What stands at the end.
    fn end(&mut self) -> Vec<Value>;
}

/// The answers as they come. Where the client goes away they are cancelled.
pub(super) fn stream<S: Speak>(answers: Answers, mut speaker: S) -> Response {
    let first = written(&speaker.begin());
    let state = Some((answers, speaker, Some(first)));
    let body = unfold(state, |state| async move {
        let (mut answers, mut speaker, first) = state?;
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok::<_, Infallible>(Bytes::from(first)), Some((answers, speaker, None))));
        }
        loop {
            let text = match answers.next(SILENCE).await {
                Heard::Silence => ": ping\n\n".to_owned(),
                Heard::Event(_, Event::Failed(failure)) => {
                    // No `[DONE]`: clients take it for a success.
                    let error = written(&[Refusal::from(failure).json()]);
                    return Some((Ok(error.into()), None));
                }
                Heard::Event(index, event) => written(&speaker.say(index, event)),
                Heard::End => {
                    let end = written(&speaker.end()) + "data: [DONE]\n\n";
                    return Some((Ok(end.into()), None));
                }
            };
            if !text.is_empty() {
                return Some((Ok(text.into()), Some((answers, speaker, None))));
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

fn written(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}
