//! What a grammar says of an answer on its way: from where on it rules, and which tokens may come.
//!
//! Thoughts are free, but do not end the answer. Where a thought may begin or the grammar, both may; white space between
//! them belongs to nobody, as long as it is little. What the last token of a thought says behind its closing tag is the
//! grammar's already. A grammar of calls rules from the mark of each call to its end, and nothing else.

use crate::dialogue::{Reader, Stage};
use crate::error::Result;
use crate::grammar::{Begins, Constraint, Mask, Matcher, Next};
use crate::tokenizer::Tokenizer;
use std::time::{Duration, Instant};

/// Bytes of white space that belong to nobody.
const MOST_SPACE: usize = 8;

/// A constraint at its place in an answer.
pub struct Guide {
    matcher: Matcher,
    rules: bool, // over all that comes
    space: usize,
    mask: Mask, // where the grammar's own is not the one
    took: Duration,
    /// Where calls are ruled and nothing else: the grammar at the beginning of one.
    of_calls: Option<Matcher>,
}

/// Who reads an answer, and what rules it.
pub struct Guided {
    /// Splits its text.
    pub reader: Reader,
    /// Its grammar.
    pub guide: Option<Guide>,
}

impl From<Reader> for Guided {
    fn from(reader: Reader) -> Self {
        Self { reader, guide: None }
    }
}

impl Guide {
    /// One at the beginning of an answer.
    pub fn new(Constraint { matcher, begins }: Constraint) -> Self {
        let of_calls = (begins == Begins::WithEachCall).then(|| matcher.clone());
        let mut mask = Mask::none(matcher.vocabulary().size());
        if of_calls.is_some() {
            (0..matcher.vocabulary().size() as u32).for_each(|token| mask.allow(token));
        }
        Self { matcher, rules: begins == Begins::AtOnce, space: 0, mask, took: Duration::ZERO, of_calls }
    }

    /// How long the latest question took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Whether nothing can follow.
    pub(super) fn must_end(&self) -> bool {
        self.rules && self.matcher.must_end() && self.of_calls.is_none()
    }

    /// What may come next.
    pub(super) fn next(&mut self, reader: &Reader, tokenizer: &Tokenizer) -> Result<Next<'_>> {
        let start = Instant::now();
        if self.of_calls.is_some() {
            self.rules = self.rules && !matches!(self.matcher.allowed()?, Next::End);
            self.took = start.elapsed();
            return if self.rules { self.matcher.allowed() } else { Ok(Next::Tokens(&self.mask)) };
        }
        self.rules |= reader.stage() == Stage::Answer;
        let is_own = self.rules || reader.stage() == Stage::Thought;
        let is_complete = !is_own && self.mix(reader, tokenizer)?;
        if self.rules {
            self.matcher.allowed()?; // it is asked for once, and known from then on
        }
        self.took = start.elapsed();
        match reader.stage() {
            _ if self.rules => self.matcher.allowed(),
            Stage::Thought => Ok(Next::Tokens(self.matcher.vocabulary().all_but_ends())),
            _ if is_complete => Ok(Next::End),
            _ => Ok(Next::Tokens(&self.mask)),
        }
    }

    /// What may come where the grammar may begin, or a thought; whether nothing can.
    fn mix(&mut self, reader: &Reader, tokenizer: &Tokenizer) -> Result<bool> {
        let vocabulary = self.matcher.vocabulary().clone();
        let (opening, has_begun) = match reader.stage() {
            Stage::Undecided { opening, has_begun } => (opening, has_begun),
            _ => ("", false),
        };
        let mut mask = Mask::none(vocabulary.size());
        if !has_begun {
            match self.matcher.allowed()? {
                Next::End => return Ok(true),
                Next::Tokens(own) => mask = own.clone(),
            }
            let left = MOST_SPACE - self.space;
            let spaces = vocabulary.white_space().iter().filter(|(_, bytes)| *bytes <= left);
            spaces.for_each(|&(token, _)| mask.allow(token));
        }
        let opens = |token: &u32| {
            if tokenizer.is_control(*token) {
                return reader.opens(tokenizer.token_text(*token), opening);
            }
            let bytes = tokenizer.piece_bytes(*token);
            !bytes.is_empty()
                && (opening.as_bytes().starts_with(bytes) || bytes.starts_with(opening.as_bytes()))
        };
        if !opening.is_empty() {
            let all = (0..vocabulary.size() as u32).filter(|token| !vocabulary.ends().contains(token));
            all.filter(opens).for_each(|token| mask.allow(token));
        }
        self.mask = mask;
        Ok(false)
    }

    /// Whether a token that was chosen, and that `reader` has not read yet, is the grammar's.
    pub(super) fn claims(&mut self, token: u32, reader: &Reader) -> Result<bool> {
        if self.rules
            || self.of_calls.is_some()
            || matches!(reader.stage(), Stage::Thought | Stage::Undecided { has_begun: true, .. })
        {
            return Ok(self.rules);
        }
        let spaces = self.matcher.vocabulary().white_space();
        if let Some((_, bytes)) = spaces.iter().find(|(space, _)| *space == token)
            && self.space + bytes <= MOST_SPACE
        {
            self.space += bytes;
            return Ok(false);
        }
        self.rules = matches!(self.matcher.allowed()?, Next::Tokens(mask) if mask.allows(token));
        Ok(self.rules)
    }

    /// Goes on with a token that `reader` has read by now.
    pub(super) fn follow(&mut self, token: u32, is_claimed: bool, reader: &Reader) -> Result<()> {
        if is_claimed {
            self.matcher.advance(token)?;
            self.rules &= self.of_calls.is_none() || !self.matcher.must_end();
            return Ok(());
        }
        if let Some(beginning) = &self.of_calls {
            // What has come of it already may be no beginning of a valid call: then it is the model's own affair.
            if let Some(begun) = reader.begun_call() {
                self.matcher = beginning.clone();
                self.rules = self.matcher.advance_bytes(begun.as_bytes()).is_ok() && !self.matcher.must_end();
            }
            return Ok(());
        }
        if matches!(reader.stage(), Stage::Between | Stage::Answer) {
            let behind = reader.latest();
            if !behind.is_empty() {
                self.rules = true;
                return self.matcher.advance_bytes(&behind);
            }
        }
        Ok(())
    }
}
