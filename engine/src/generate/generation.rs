//! A text that comes token by token and computes nothing itself: it says which row it wants next, and takes what the model
//! thinks of it. So several share steps.

use super::{Ending, Guide, Guided};
use crate::dialogue::{Piece, Reader};
use crate::error::Result;
use crate::grammar::Next;
use crate::model::{Row, Wants};
use crate::sampler::Sampler;
use crate::session::{Batch, Engine};
use std::time::Duration;

/// What a token brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Text that it completes, often none.
    Said(Vec<Piece>),
    /// The end, after this text.
    Ended(Ending, Vec<Piece>),
}

/// A prompt and the answer so far.
pub struct Generation {
    tokens: Vec<u32>, // of the prompt, then generated ones without the end token
    begin: usize,     // of those that count for the limit
    limit: usize,
    context_length: usize,
    reader: Reader,
    guide: Option<Guide>,
    ending: Option<Ending>,
}

impl Generation {
    /// A generation after `prompt`; `limit` is the most tokens that follow. A reader reads them, after what of the answer
    /// `prompt` ends with, and a grammar may say which they can be. Where the engine has no tokenizer they bring no text.
    pub fn new(engine: &Engine, prompt: &[u32], limit: Option<usize>, guided: impl Into<Guided>) -> Self {
        let Guided { reader, guide } = guided.into();
        Self {
            tokens: prompt.to_vec(),
            begin: prompt.len(),
            limit: limit.unwrap_or(usize::MAX),
            context_length: engine.context_length(),
            reader,
            guide,
            ending: None,
        }
    }

    /// All tokens: those of the prompt, then the generated ones.
    pub fn all(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens generated so far, without the end token.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[self.begin..]
    }

    /// Why it ended, once it did.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The stop string that ended it.
    pub fn stop(&self) -> Option<&str> {
        self.reader.stop()
    }

    /// Ends it where it has no more to come: nothing that is wanted, as many tokens as were asked for, or no position left.
    pub fn end_if_full(&mut self) -> Option<Ending> {
        if self.ending.is_none() {
            let is_full = self.tokens.len() > self.context_length;
            let is_at_limit = self.tokens().len() >= self.limit;
            let is_over = self.reader.is_over();
            let ending = if is_full { Some(Ending::ContextFull) } else { None };
            let ending = if is_at_limit { Some(Ending::Limit) } else { ending };
            self.ending = if is_over { Some(Ending::EndOfText) } else { ending };
        }
        self.ending
    }

    /// Ends it for another reason.
    pub fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// What a choice needs of the last row.
    pub fn wants(&self, sampler: &Sampler) -> Wants {
        if self.guide.is_some() { Wants::Logits } else { sampler.wants() }
    }

    /// How long the grammar took to say which tokens may come, where there is one.
    pub fn guide_took(&self) -> Option<Duration> {
        self.guide.as_ref().map(Guide::took)
    }

    /// The row of the latest token, which the model has to see before it says what follows; `None` once it ended.
    pub fn next_row(&self, sequence: usize, sampler: &Sampler) -> Option<Row> {
        let position = self.tokens.len().checked_sub(1)?;
        let row = Row { sequence, position, token: self.tokens[position], wants: self.wants(sampler) };
        self.ending.is_none().then_some(row)
    }

    /// Chooses the next token by the `row`-th of those rows of the batch's last step that wanted something.
    ///
    /// # Errors
    /// When a device fails, as [`Sampler::sample`], or when the grammar cannot be followed.
    pub fn take(&mut self, sampler: &mut Sampler, batch: &mut Batch<'_>, row: usize) -> Result<Event> {
        if let Some(guide) = &mut self.guide {
            batch.fetch()?;
            let token = match guide.next(&self.reader, batch.engine().tokenizer()?)? {
                Next::End => return Ok(self.complete()),
                Next::Tokens(mask) => sampler.sample_among(batch.logits(row), &self.tokens, Some(mask))?,
            };
            return self.push(batch.engine(), token);
        }
        // Of the best ones where these decide, else of all.
        let best = batch.best(row).and_then(|best| sampler.sample_best(&best));
        let token = match best {
            Some(token) => token,
            None => {
                batch.fetch()?;
                sampler.sample(batch.logits(row), &self.tokens)?
            }
        };
        self.push(batch.engine(), token)
    }

    fn complete(&mut self) -> Event {
        self.ending = Some(Ending::EndOfText);
        Event::Ended(Ending::EndOfText, Vec::new())
    }

    /// Adds a token that was chosen.
    fn push(&mut self, engine: &Engine, token: u32) -> Result<Event> {
        if engine.is_end(token) {
            return Ok(self.complete());
        }
        let claim = self.guide.as_mut().map(|guide| guide.claims(token, &self.reader)).transpose()?;
        self.tokens.push(token);
        let pieces =
            engine.tokenizer().map_or_else(|_| Vec::new(), |tokenizer| self.reader.push(tokenizer, token));
        if self.reader.stop().is_some() {
            self.ending = Some(Ending::StopString);
            return Ok(Event::Ended(Ending::StopString, pieces));
        }
        if let (Some(guide), Some(is_claimed)) = (&mut self.guide, claim) {
            guide.follow(token, is_claimed, &self.reader)?;
            // The token counts; that nothing follows needs no further one.
            self.ending = guide.must_end().then_some(Ending::EndOfText);
        }
        Ok(Event::Said(pieces))
    }

    /// What the reader held back of a text that has ended; nothing after a stop string.
    pub fn flush(&mut self) -> Vec<Piece> {
        self.reader.finish()
    }

    /// What the answer says so far.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The reader and the grammar, for another part of the same answer.
    pub fn into_guided(self) -> Guided {
        Guided { reader: self.reader, guide: self.guide }
    }
}
