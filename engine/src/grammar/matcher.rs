//! One answer on its way through a grammar: which tokens may come next, and whether it may or must end.

use super::vocabulary::reason;
use super::{Mask, Vocabulary};
use crate::{Error, Result};
use std::sync::Arc;

/// Follows an answer token by token. A copy goes its own way.
pub struct Matcher {
    inner: llguidance::Matcher,
    vocabulary: Arc<Vocabulary>,
    mask: Option<Mask>, // of the present state
}

/// What the grammar says of the next token.
#[derive(Debug)]
pub enum Next<'m> {
    /// One of these, end tokens among them where the text may end.
    Tokens(&'m Mask),
    /// None: the text is complete.
    End,
}

impl Matcher {
    /// A matcher at the beginning of its grammar, which may be complete there already.
    pub(super) fn new(inner: llguidance::Matcher, vocabulary: Arc<Vocabulary>) -> Result<Self> {
        let mut matcher = Self { inner, vocabulary, mask: None };
        matcher.advance_all(&[])?;
        Ok(matcher)
    }

    /// The tokens of which it knows.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// Whether the text is complete and nothing can follow.
    pub fn must_end(&self) -> bool {
        self.inner.is_stopped() && self.inner.stop_reason().is_ok()
    }

    /// Whether the text is complete, though more may follow.
    ///
    /// # Errors
    /// As [`Matcher::allowed`].
    pub fn may_end(&mut self) -> Result<bool> {
        Ok(self.must_end() || self.inner.is_accepting().map_err(|error| failed(&error))?)
    }

    /// What may come next.
    ///
    /// # Errors
    /// When the grammar is too complex at this point, or goes on in a way that the vocabulary cannot write.
    pub fn allowed(&mut self) -> Result<Next<'_>> {
        if self.must_end() {
            return Ok(Next::End);
        }
        if self.mask.is_none() {
            let mut mask = Mask::new(self.inner.compute_mask().map_err(|error| failed(&error))?);
            self.vocabulary.forget_bytes(&mut mask);
            let ends = self.vocabulary.ends();
            if mask.tokens().all(|token| ends.contains(&token)) {
                if self.may_end()? {
                    return Ok(Next::End);
                }
                return Err(Error::request("the grammar goes on with a text that no token of the model has"));
            }
            self.mask = Some(mask);
        }
        Ok(self.mask.as_ref().map_or(Next::End, Next::Tokens))
    }

    /// Goes on with a token; not with one that ends the answer.
    ///
    /// # Errors
    /// When it may not come here; the matcher is of no use then.
    pub fn advance(&mut self, token: u32) -> Result<()> {
        self.advance_all(&[token])
    }

    /// Goes on with bytes that are not a whole token.
    ///
    /// # Errors
    /// As [`Matcher::advance`].
    pub fn advance_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let tokens: Vec<u32> = bytes.iter().map(|&byte| self.vocabulary.of_byte(byte)).collect();
        self.advance_all(&tokens)
    }

    fn advance_all(&mut self, tokens: &[u32]) -> Result<()> {
        self.mask = None;
        self.inner.consume_tokens(tokens).map_err(|error| failed(&error))
    }
}

impl Clone for Matcher {
    fn clone(&self) -> Self {
        // Nothing is shared: what goes wrong in one answer stays there.
        let inner = self.inner.deep_clone();
        Self { inner, vocabulary: self.vocabulary.clone(), mask: self.mask.clone() }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("must_end", &self.must_end()).finish_non_exhaustive()
    }
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::request(format!("the grammar cannot be followed: {}", reason(&error.to_string())))
}
