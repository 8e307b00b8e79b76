//! From messages or text to the tokens that a model is to continue.

use anyhow::Result;
use moewe_engine::session::Engine;
use moewe_engine::tokenizer::{ChatTemplate, Message, Special};

/// The model's chat template; `None` for a base model.
pub(crate) fn template(engine: &Engine) -> Result<Option<ChatTemplate>> {
    Ok(ChatTemplate::from_metadata(engine.metadata(), engine.tokenizer()?)?)
}

/// Tokens of a conversation, up to where the answer begins.
pub(crate) fn of_messages(
    engine: &Engine,
    template: &ChatTemplate,
    messages: &[Message],
) -> Result<Vec<u32>> {
    // The template writes the beginning of the text itself where it wants one.
    Ok(engine.tokenizer()?.encode(&template.render(messages, true)?, Special::Parse)?)
}

/// Tokens of a text to continue; control tokens in it count, since who writes none needs no way to escape them.
pub(crate) fn of_text(engine: &Engine, text: &str) -> Result<Vec<u32>> {
    Ok(engine.tokenizer()?.encode_with_bos(text, Special::Parse)?)
}
