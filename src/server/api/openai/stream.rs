//! Answers that are told event by event, as server-sent events.

use crate::server::ask::{Answers, Heard};
use crate::server::refusal::Refusal;
use crate::server::scheduler::{Event, Failure};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// After so long without an event a comment keeps the connection open.
const SILENCE: Duration = Duration::from_secs(15);

/// A client that waits for all at once hears nothing in between.
const LONG: Duration = Duration::from_secs(3600);

/// Tells answers in a dialect's words.
pub(super) trait Tell: Send + 'static {
    /// Events at the beginning.
    fn begin(&mut self) -> Vec<Value>;

    /// What an event of the answer with this number says, often nothing.
    fn say(&mut self, index: usize, event: Event) -> Vec<Value>;

    /// Events at the end.
    fn end(&mut self) -> Vec<Value>;

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
    streams: bool,
) -> Result<Response, Refusal> {
    answers.begun().await?;
    if streams { Ok(stream(answers, teller)) } else { whole(answers, teller).await }
}

async fn whole<T: Tell>(mut answers: Answers, mut teller: T) -> Result<Response, Refusal> {
    loop {
        match answers.next(LONG).await {
            Heard::Silence => {}
            Heard::Event(_, Event::Failed(failure)) => return Err(failure.into()),
            Heard::Event(index, event) => teller.keep(index, event),
            Heard::End => break,
        }
    }
    let whole = teller.whole().ok_or(Failure::Closing)?;
    Ok(Json(whole).into_response())
}

fn stream<T: Tell>(answers: Answers, mut teller: T) -> Response {
    let first = written(&teller.begin());
    let state = Some((answers, teller, Some(first)));
    let body = unfold(state, |state| async move {
        let (mut answers, mut teller, first) = state?;
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok::<_, Infallible>(Bytes::from(first)), Some((answers, teller, None))));
        }
        loop {
            let text = match answers.next(SILENCE).await {
                Heard::Silence => ": ping\n\n".to_owned(),
                Heard::Event(_, Event::Failed(failure)) => {
                    // No `[DONE]`: clients take it for a success.
                    let error = written(&[Refusal::from(failure).json()]);
                    return Some((Ok(error.into()), None));
                }
                Heard::Event(index, event) => written(&teller.say(index, event)),
                Heard::End => {
                    let end = written(&teller.end()) + "data: [DONE]\n\n";
                    return Some((Ok(end.into()), None));
                }
            };
            if !text.is_empty() {
                return Some((Ok(text.into()), Some((answers, teller, None))));
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
