//! Bodies of requests: JSON of a bounded size, whose first wrong field is named by its path.

use super::Shared;
use super::interface::Interface;
use super::refusal::Refusal;
use axum::body::{Body as Raw, BodyDataStream, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long, and for how many bytes, the rest of a refused body is heard out.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST_HEARD: usize = 64 << 20;

/// The bytes of a body that says that it is JSON.
pub(super) struct Body(Bytes);

impl FromRequest<Arc<Shared>> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let most = shared.settings.max_body;
        let interface = Interface::of(request.uri().path(), request.headers());
        check(request.headers(), most, interface)?;
        let bytes = to_bytes(request.into_body(), most).await.map_err(|error| {
            let mut causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            match causes.any(|cause| cause.to_string().contains("length limit exceeded")) {
                true => Refusal::too_large(most),
                false => Refusal::invalid(format!("the body cannot be read: {error}")),
            }
        })?;
        Ok(Self(bytes))
    }
}

/// Sites may post forms and plain text to other sites unasked, but not JSON. Ollama's users post with curl and no header
/// of their own, which is a form by its name; of a page it has an origin.
fn check(headers: &HeaderMap, most: usize, interface: Interface) -> Result<(), Refusal> {
    let value = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let kind = value(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default();
    let is_plain = matches!(value(header::CONTENT_ENCODING), None | Some("identity"));
    let kind = kind.trim().to_ascii_lowercase();
    let is_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    let is_shell = interface == Interface::Ollama
        && !is_page
        && matches!(kind.as_str(), "" | "application/x-www-form-urlencoded");
    if !(kind == "application/json" || is_shell) || !is_plain {
        return Err(Refusal::content_type());
    }
    match value(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > most => Err(Refusal::too_large(most)),
        _ => Ok(()),
    }
}

impl Body {
    /// Those fields that a `T` has. Several may be read from one body.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let mut json = serde_json::Deserializer::from_slice(&self.0);
        let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            match path.as_str() {
                "." | "?" => Refusal::invalid(error.inner().to_string()),
                _ => Refusal::field(path, error.inner().to_string()),
            }
        })?;
        json.end().map_err(|error| Refusal::invalid(error.to_string()))?;
        Ok(read)
    }
}

/// A body that can be read on when its request is answered.
#[derive(Clone)]
struct Heard(Arc<Mutex<Rest>>);

struct Rest {
    body: BodyDataStream,
    was_asked_for: bool,
    has_ended: bool,
}

impl Stream for Heard {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rest.was_asked_for = true;
        let next = rest.body.poll_next_unpin(context);
        rest.has_ended |= matches!(next, Poll::Ready(None | Some(Err(_))));
        next
    }
}

/// Answers once the body has come, within limits, even where its first bytes were enough to refuse it: a connection that is
/// closed while its client still writes takes the answer with it.
pub(super) async fn hear_out(request: Request, next: Next) -> Response {
    // Who asks before it sends will not send.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let rest = Rest { body: body.into_data_stream(), was_asked_for: false, has_ended: false };
    let mut body = Heard(Arc::new(Mutex::new(rest)));
    let response = next.run(Request::from_parts(head, Raw::from_stream(body.clone()))).await;
    let is_over = {
        let rest = body.0.lock().unwrap_or_else(PoisonError::into_inner);
        rest.has_ended || asks_first && !rest.was_asked_for
    };
    if !is_over {
        let mut heard = 0;
        let rest = async {
            while let Some(Ok(bytes)) = body.next().await
                && heard < MOST_HEARD
            {
                heard += bytes.len();
            }
        };
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
    response
}

/// A number of a field, in a range.
pub(super) fn within<T: PartialOrd + Copy + std::fmt::Display>(
    name: &str,
    number: T,
    least: T,
    most: T,
) -> Result<T, Refusal> {
    if number >= least && number <= most {
        return Ok(number);
    }
    Err(Refusal::field(name, format!("expected {least} to {most}, not {number}")))
}

/// A real number of a field, in a range whose ends may be the least above zero and the largest there is.
pub(super) fn real(name: &str, number: f32, least: f32, most: f32) -> Result<f32, Refusal> {
    if number >= least && number <= most {
        return Ok(number);
    }
    let least = if least == f32::MIN_POSITIVE { "more than 0".into() } else { format!("at least {least}") };
    let most = if most == f32::MAX { String::new() } else { format!(" and at most {most}") };
    Err(Refusal::field(name, format!("expected {least}{most}, not {number}")))
}

/// A list of token ids of this vocabulary, where a value is one.
pub(super) fn ids(value: &Value, vocabulary: usize) -> Option<Result<Vec<u32>, u64>> {
    let numbers: Option<Vec<u64>> = value.as_array()?.iter().map(Value::as_u64).collect();
    let id = |number: u64| u32::try_from(number).ok().filter(|id| (*id as usize) < vocabulary).ok_or(number);
    Some(numbers?.into_iter().map(id).collect())
}
