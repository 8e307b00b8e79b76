//! Bodies of requests: JSON of a bounded size, whose first wrong field is named by its path.

use super::Shared;
use super::refusal::Refusal;
use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The bytes of a body that says that it is JSON.
pub(super) struct Body(axum::body::Bytes);

impl FromRequest<Arc<Shared>> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let most = shared.settings.max_body;
        check(request.headers(), most)?;
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

/// Sites may post forms and plain text to other sites unasked, but not JSON.
fn check(headers: &HeaderMap, most: usize) -> Result<(), Refusal> {
    let value = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let kind = value(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default();
    let is_plain = matches!(value(header::CONTENT_ENCODING), None | Some("identity"));
    if !kind.trim().eq_ignore_ascii_case("application/json") || !is_plain {
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
