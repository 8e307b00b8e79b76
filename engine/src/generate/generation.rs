//! A text that comes token by token and computes nothing itself: it says which row it wants next, and takes what the model
//! thinks of it. So several share steps.

use super::{Ending, StopScanner};
use crate::error::Result;
use crate::model::Row;
use crate::sampler::Sampler;
use crate::session::{Batch, Engine};
use crate::tokenizer::StreamDecoder;

/// What a token brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'t> {
    /// Text that it completes, often empty.
    Text(&'t str),
    /// The end, after this text.
    Ended(Ending, &'t str),
}

/// A prompt and the answer so far.
pub struct Generation {
    tokens: Vec<u32>, // of the prompt, then generated ones without the end token
    begin: usize,     // of those that count for the limit
    limit: usize,
    context_length: usize,
    decoder: StreamDecoder,
    stops: StopScanner,
    stop: Option<String>, // that ended it
    text: String,
    ending: Option<Ending>,
}

impl Generation {
    /// A generation after `prompt`, of which the last tokens are an answer from `answered` on; `limit` is the most tokens
    /// that follow.
    pub fn new(
        engine: &Engine,
        prompt: &[u32],
        answered: usize,
        limit: Option<usize>,
        stops: StopScanner,
    ) -> Self {
        let mut decoder = StreamDecoder::new();
        if let Ok(tokenizer) = engine.tokenizer() {
            prompt[answered..].iter().for_each(|&token| _ = decoder.push(tokenizer, token));
        }
        Self {
            tokens: prompt.to_vec(),
            begin: prompt.len(),
            limit: limit.unwrap_or(usize::MAX),
            context_length: engine.context_length(),
            decoder,
            stops,
            stop: None,
            text: String::new(),
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
        self.stop.as_deref()
    }

    /// Ends it where it has no more to come: as many tokens as were asked for, or no position left.
    pub fn end_if_full(&mut self) -> Option<Ending> {
        if self.ending.is_none() {
            let is_full = self.tokens.len() > self.context_length;
            let is_at_limit = self.tokens().len() >= self.limit;
            let ending = if is_full { Some(Ending::ContextFull) } else { None };
            self.ending = if is_at_limit { Some(Ending::Limit) } else { ending };
        }
        self.ending
    }

    /// Ends it for another reason.
    pub fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// The row of the latest token, which the model has to see before it says what follows; `None` once it ended.
    pub fn next_row(&self, sequence: usize, sampler: &Sampler) -> Option<Row> {
        let position = self.tokens.len().checked_sub(1)?;
        let row = Row { sequence, position, token: self.tokens[position], wants: sampler.wants() };
        self.ending.is_none().then_some(row)
    }

    /// Chooses the next token by the `row`-th of those rows of the batch's last step that wanted something.
    ///
    /// # Errors
    /// When a device fails, or as [`Sampler::sample`].
    pub fn take(&mut self, sampler: &mut Sampler, batch: &mut Batch<'_>, row: usize) -> Result<Event<'_>> {
        // Of the best ones where these decide, else of all.
        let best = batch.best(row).and_then(|best| sampler.sample_best(&best));
        let token = match best {
            Some(token) => token,
            None => {
                batch.fetch()?;
                sampler.sample(batch.logits(row), &self.tokens)?
            }
        };
        Ok(self.push(batch.engine(), token))
    }

    /// Adds a token that was chosen.
    fn push(&mut self, engine: &Engine, token: u32) -> Event<'_> {
        self.text.clear();
        if engine.is_end(token) {
            self.ending = Some(Ending::EndOfText);
            return Event::Ended(Ending::EndOfText, &self.text);
        }
        self.tokens.push(token);
        let Ok(tokenizer) = engine.tokenizer() else { return Event::Text("") };
        let (ready, stop) = self.stops.push(self.decoder.push(tokenizer, token));
        self.text.push_str(ready);
        let Some(stop) = stop else { return Event::Text(&self.text) };
        self.stop = Some(stop.to_owned());
        self.ending = Some(Ending::StopString);
        Event::Ended(Ending::StopString, &self.text)
    }

    /// What was held back of a text that ended otherwise than by a stop string; an unfinished character is replaced.
    pub fn flush(&mut self) -> &str {
        self.text.clear();
        if self.stop.is_none() {
            let (ready, stop) = self.stops.push(self.decoder.flush());
            self.text.push_str(ready);
            if stop.is_none() {
                self.text.push_str(self.stops.finish());
            }
        }
        &self.text
    }
}
