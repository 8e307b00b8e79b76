//! The generation loop: prefill a prompt, then choose, compute and show token after token until there is a reason
//! to end.
//!
//! Choosing is the sampler's, computing the session's. The last chosen token is computed only when another one is
//! wanted, so a session ends with one token less than was generated.

use crate::error::{Error, Result};
use crate::sampler::Sampler;
use crate::session::Session;
use crate::tokenizer::StreamDecoder;
use std::time::{Duration, Instant};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model chose a token that ends a text.
    EndOfText,
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

/// A running generation.
pub struct Generation<'g, 'e> {
    session: &'g mut Session<'e>,
    sampler: &'g mut Sampler,
    decoder: StreamDecoder,
    limit: usize,
    tokens: Vec<u32>, // generated, without the end token
    text: String,     // what the latest token completed; an unfinished character at the end is never shown
    ending: Option<Ending>,
    figures: Figures,
}

impl<'g, 'e> Generation<'g, 'e> {
    /// Computes what the session lacks of `prompt`. `limit` is the most tokens to generate.
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
    ) -> Result<Self> {
        Self::resume(session, sampler, prompt, &[], limit)
    }

    /// [`Generation::start`] where `answer` was generated before; `limit` counts what comes from now on.
    ///
    /// # Errors
    /// As [`Session::synchronise`].
    pub fn resume(
        session: &'g mut Session<'e>,
        sampler: &'g mut Sampler,
        prompt: &[u32],
        answer: &[u32],
        limit: Option<usize>,
    ) -> Result<Self> {
        let start = Instant::now();
        let whole = [prompt, answer].concat();
        let (prefilled, ending) = match session.synchronise_for(&whole, sampler.wants()) {
            Ok(prefilled) => (prefilled, None),
            Err(Error::Stopped) => (0, Some(Ending::Stopped)),
            Err(error) => return Err(error),
        };
        let prefill = start.elapsed();
        sampler.begin_answer(prompt.len());
        let mut decoder = StreamDecoder::new();
        if let Ok(tokenizer) = session.engine().tokenizer() {
            answer.iter().for_each(|&token| _ = decoder.push(tokenizer, token));
        }
        Ok(Self {
            figures: Figures {
                prompt: if ending.is_some() { 0 } else { whole.len() },
                prefilled,
                prefill,
                ..Figures::default()
            },
            limit: limit.unwrap_or(usize::MAX),
            tokens: vec![],
            text: String::new(),
            decoder,
            session,
            sampler,
            ending,
        })
    }

    /// Generates one token and returns the text that it completes, often empty; `None` at the end.
    ///
    /// # Errors
    /// As [`Session::extend`] and [`Sampler::sample`].
    pub fn next_text(&mut self) -> Result<Option<&str>> {
        if self.ending.is_some() {
            return Ok(None);
        }
        let (start, decoded) = (Instant::now(), self.figures.decoded);
        let ending = self.advance()?;
        // The first token costs no forward of its own: it belongs to neither rate.
        if self.figures.decoded > decoded {
            self.figures.decode += start.elapsed();
        }
        self.ending = ending;
        Ok(ending.is_none().then_some(&self.text))
    }

    /// Computes the latest token, chooses the next and decodes it.
    fn advance(&mut self) -> Result<Option<Ending>> {
        if self.session.is_stopped() {
            return Ok(Some(Ending::Stopped));
        }
        if self.tokens.len() >= self.limit {
            return Ok(Some(Ending::Limit));
        }
        if let Some(&latest) = self.tokens.last() {
            if self.session.room() == 0 {
                return Ok(Some(Ending::ContextFull));
            }
            self.session.extend_for(&[latest], self.sampler.wants())?;
            self.figures.decoded += 1;
        }
        let token = self.choose()?;
        if self.session.engine().is_end(token) {
            return Ok(Some(Ending::EndOfText));
        }
        self.tokens.push(token);
        self.figures.generated += 1;
        self.text.clear();
        if let Ok(tokenizer) = self.session.engine().tokenizer() {
            self.text.push_str(self.decoder.push(tokenizer, token));
        }
        Ok(None)
    }

    /// The next token: of the best ones where these decide, else of all.
    fn choose(&mut self) -> Result<u32> {
        let best = self.session.best();
        if let Some(token) = best.and_then(|best| self.sampler.sample_best(&best)) {
            return Ok(token);
        }
        self.session.fetch_logits()?;
        self.sampler.sample(self.session.logits(), self.session.tokens())
    }

    /// Tokens generated so far, without the end token.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Why it ended, once it did.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// What it took so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }
}
