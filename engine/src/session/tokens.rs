//! What an engine knows of its tokens: their texts, which of them end an answer, and how grammars see them.

use super::Engine;
use crate::error::{Error, Result};
use crate::grammar::Vocabulary;
use crate::tokenizer::Tokenizer;
use std::sync::Arc;

impl Engine {
    /// The model's tokenizer.
    ///
    /// # Errors
    /// When the file has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::request("this file has no tokenizer, so it takes token ids only (`moewe logits --tokens`)")
        })
    }

    /// What compiles grammars for this model; made when it is first asked for, which takes a moment.
    ///
    /// # Errors
    /// When the file has no tokenizer, or one that grammars cannot work with.
    pub fn vocabulary(&self) -> Result<&Arc<Vocabulary>> {
        if let Some(made) = self.vocabulary.get() {
            return Ok(made);
        }
        let made = Vocabulary::new(self.tokenizer()?, self.model.config.vocab_size)?;
        Ok(self.vocabulary.get_or_init(|| made))
    }

    /// Whether `token` ends an answer, by the tokenizer or, without one, by the keys that name ends.
    pub fn is_end(&self, token: u32) -> bool {
        match &self.tokenizer {
            Some(tokenizer) => tokenizer.is_end(token),
            None => self.ends.binary_search(&token).is_ok(),
        }
    }
}
