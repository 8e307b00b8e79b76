//! The generation loop: prefill a prompt, then choose, compute and show token after token until there is a reason
//! to end.
//!
//! A [`Generation`] is one text on its way, an [`Answer`] the loop of a single one over a session. Choosing is the
//! sampler's, computing the batch's. The last chosen token is computed only when another one is wanted, so a session ends
//! with one token less than was generated.

mod generation;
mod guide;
#[cfg(test)]
mod guide_tests;

pub use generation::{Event, Generation};
pub use guide::{Guide, Guided};

use crate::dialogue::{Piece, Reader};
use crate::error::{Error, Result};
use crate::sampler::Sampler;
use crate::session::Session;
use std::time::{Duration, Instant};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model chose a token that ends a text.
    EndOfText,
    /// A stop string came.
    StopString,
    /// As many tokens as were asked for.
    Limit,
    /// No position is left.
    ContextFull,
    /// The stop flag went up.
    Stopped,
}

impl Ending {
    /// For people and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfText => "end of text",
            Self::StopString => "stop string",
            Self::Limit => "limit",
            Self::ContextFull => "context full",
            Self::Stopped => "stopped",
        }
    }
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Tokens of the prompt; 0 where its prefill was stopped.
    pub prompt: usize,
    /// Of these, tokens that had to be computed; the cache held the others.
    pub prefilled: usize,
    /// Tokens generated, the end token not counted.
    pub generated: usize,
    /// Generated tokens that were computed in turn.
    pub decoded: usize,
    /// Time for `prefilled` tokens.
    pub prefill: Duration,
    /// Time for `decoded` tokens, choosing included.
    pub decode: Duration,
}

impl Figures {
    /// Prompt tokens computed per second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prefilled, self.prefill)
    }

    /// Tokens generated per second.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decoded, self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// A generation over a session.
pub struct Answer<'g, 'e> {
    session: &'g mut Session<'e>,
    sampler: &'g mut Sampler,
    generation: Generation,
    figures: Figures,
}

impl<'g, 'e> Answer<'g, 'e> {
    /// Computes what the session lacks of `prompt`. `limit` is the most tokens to generate; a reader
    /// reads them, and a grammar may say which they can be.
    ///
    /// A stop during the prefill is an ending, not an error.
    ///
    /// # Errors
    /// As [`Session::synchronise`].
    pub fn start(
        session: &'g mut Session<'e>,
        sampler: &'g mut Sampler,
        prompt: &[u32],
        limit: Option<usize>,
        guided: impl Into<Guided>,
    ) -> Result<Self> {
        Self::resume(session, sampler, prompt, &[], limit, guided)
    }

    /// [`Answer::start`] where `answer` was generated before, and reader and grammar know it; `limit` counts what comes
    /// from now on.
    ///
    /// # Errors
    /// As [`Session::synchronise`].
    pub fn resume(
        session: &'g mut Session<'e>,
        sampler: &'g mut Sampler,
        prompt: &[u32],
        answer: &[u32],
        limit: Option<usize>,
        guided: impl Into<Guided>,
    ) -> Result<Self> {
        let start = Instant::now();
        let whole = [prompt, answer].concat();
        let mut generation = Generation::new(session.engine(), &whole, limit, guided);
        let prefilled = match session.synchronise_for(&whole, generation.wants(sampler)) {
            Ok(prefilled) => prefilled,
            Err(Error::Stopped) => {
                generation.end(Ending::Stopped);
                0
            }
            Err(error) => return Err(error),
        };
        let prompt_tokens = if generation.ending().is_some() { 0 } else { whole.len() };
        sampler.begin_answer(prompt.len());
        let figures =
            Figures { prompt: prompt_tokens, prefilled, prefill: start.elapsed(), ..Figures::default() };
        Ok(Self { session, sampler, generation, figures })
    }

    /// Generates one token and returns the text that it completes, often none; `None` at the end.
    ///
    /// # Errors
    /// As [`Session::extend`] and [`Sampler::sample`].
    pub fn next_pieces(&mut self) -> Result<Option<Vec<Piece>>> {
        if self.generation.ending().is_some() {
            return Ok(None);
        }
        let (start, decoded) = (Instant::now(), self.figures.decoded);
        let pieces = self.advance()?;
        // The first token costs no forward of its own: it belongs to neither rate.
        if self.figures.decoded > decoded {
            self.figures.decode += start.elapsed();
        }
        Ok(pieces)
    }

    /// Generates one token and returns the part of the answer that it completes, often empty: no thoughts, no calls of
    /// tools. What was held back at the end comes last; then `None`.
    ///
    /// # Errors
    /// As [`Answer::next_pieces`].
    pub fn next_text(&mut self) -> Result<Option<String>> {
        let (pieces, has_ended) = match self.next_pieces()? {
            Some(pieces) => (pieces, false),
            None => (self.flush(), true),
        };
        let answers = pieces.iter().filter(|piece| matches!(piece, Piece::Answer(_)));
        let text: String = answers.map(Piece::text).collect();
        Ok((!has_ended || !text.is_empty()).then_some(text))
    }

    /// Computes the latest token, chooses the next and reads it.
    fn advance(&mut self) -> Result<Option<Vec<Piece>>> {
        if self.session.is_stopped() {
            self.generation.end(Ending::Stopped);
        }
        if self.generation.end_if_full().is_some() {
            return Ok(None);
        }
        if let Some(&latest) = self.generation.tokens().last() {
            self.session.extend_for(&[latest], self.generation.wants(self.sampler))?;
            self.figures.decoded += 1;
        }
        let row = self.session.batch().logit_rows() - 1;
        let pieces = match self.generation.take(self.sampler, self.session.batch_mut(), row)? {
            Event::Said(pieces) | Event::Ended(Ending::StopString, pieces) => pieces,
            Event::Ended(..) => return Ok(None),
        };
        self.figures.generated += 1;
        Ok(Some(pieces))
    }

    /// As [`Generation::flush`].
    pub fn flush(&mut self) -> Vec<Piece> {
        self.generation.flush()
    }

    /// What it says so far.
    pub fn reader(&self) -> &Reader {
        self.generation.reader()
    }

    /// The reader and the grammar, for another part of the same answer.
    pub fn into_guided(self) -> Guided {
        self.generation.into_guided()
    }

    /// Tokens generated so far, without the end token.
    pub fn tokens(&self) -> &[u32] {
        self.generation.tokens()
    }

    /// Why it ended, once it did.
    pub fn ending(&self) -> Option<Ending> {
        self.generation.ending()
    }

    /// What it took so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }
}
