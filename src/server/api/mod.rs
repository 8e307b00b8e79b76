//! What clients speak: an interface is a folder that maps its JSON to a [`Chat`] or an
//! [`Ask`](super::ask::Ask), and events to its JSON. The files here are what all of them share.

pub(super) mod anthropic;
mod answer;
mod choosing;
pub(super) mod native;
pub(super) mod ollama;
pub(super) mod openai;
mod prompts;
mod requests;
pub(super) mod tell;
#[cfg(test)]
mod tests;
mod usage;

use super::Shared;
use super::body::Body;
use super::chat::Chat;
use super::model::Model;
use super::refusal::Refusal;
use choosing::Choosing;
use moewe_engine::tokenizer::date;
use ring::rand::{SecureRandom, SystemRandom};
use serde::de::DeserializeOwned;
use std::time::SystemTime;

/// How a request is called in what is said about it.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

/// `prefix` and 24 letters and digits that nobody can guess.
pub(super) fn identifier(prefix: &str) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0u8; 24];
    // Without randomness all are alike, which no client minds much.
    let _ = SystemRandom::new().fill(&mut bytes);
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    format!("{prefix}{}", letters.collect::<String>())
}

/// How many tokens the prompt has that a body's conversation becomes; `read` makes one of an interface's own fields.
async fn count_tokens<T: DeserializeOwned>(
    shared: &Shared,
    body: &Body,
    read: impl FnOnce(T, &Choosing, &Model) -> Result<Chat, Refusal>,
) -> Result<usize, Refusal> {
    let model = shared.model()?.clone();
    let (choosing, own): (Choosing, T) = (body.read()?, body.read()?);
    choosing.is_for(&model, shared.settings.strict_model)?;
    let (_, tokens) = read(own, &choosing, &model)?.prompt(&model).await?;
    Ok(tokens.len())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A moment as JSON writes it, with so many nanoseconds of its second.
fn rfc3339(seconds: u64, nanoseconds: u32) -> String {
    let fraction = if nanoseconds == 0 { String::new() } else { format!(".{nanoseconds:09}") };
    date("%FT%T", seconds as i64) + &fraction + "Z"
}
