//! Generated tokens to pieces of text: UTF-8, then the family's splitter, then calls, then stop strings, which end the
//! answer only.

use super::calls::Splitter;
use super::{Dialogue, Family, Piece, Split, Stage, StopScanner};
use crate::tokenizer::{StreamDecoder, Tokenizer};
use std::sync::Arc;

/// Reads one answer, token by token.
pub struct Reader {
    family: Arc<dyn Family>,
    decoder: StreamDecoder,
    splitter: Box<dyn Split>,
    calls: Option<Splitter>,
    stops: StopScanner,
    raw: String,
    reasoning: String,
    answer: String,
    latest: String, // of the answer, what the last token has brought, stop strings included
}

impl Reader {
    /// A reader for whom all text is the answer and nothing ends it.
    pub fn plain() -> Self {
        Dialogue::plain().reader("", StopScanner::default(), None)
    }

    pub(super) fn new(
        family: Arc<dyn Family>,
        splitter: Box<dyn Split>,
        calls: Option<Splitter>,
        stops: StopScanner,
    ) -> Self {
        Self {
            family,
            splitter,
            calls,
            decoder: StreamDecoder::new(),
            stops,
            raw: String::new(),
            reasoning: String::new(),
            answer: String::new(),
            latest: String::new(),
        }
    }

    /// What a token completes, often nothing. After a stop string nothing comes any more.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let control = tokenizer.is_control(token).then(|| tokenizer.token_text(token));
        match control {
            None => {
                let text = self.decoder.push(tokenizer, token);
                self.raw.push_str(text);
                self.splitter.push(text, &mut pieces);
            }
            Some(control) => {
                self.raw.push_str(control);
                let of_calls = self.calls.as_ref().is_some_and(|calls| calls.has_mark(control));
                if let Some(mark) = self.family.mark(control).or_else(|| of_calls.then_some(control)) {
                    self.splitter.push(self.decoder.flush(), &mut pieces);
                    self.splitter.push(mark, &mut pieces);
                }
            }
        }
        let pieces = self.call(pieces);
        self.keep(pieces)
    }

    /// What a text makes that no tokens stand for.
    #[cfg(test)]
    pub(super) fn push_text(&mut self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.splitter.push(text, &mut pieces);
        let pieces = self.call(pieces);
        self.keep(pieces)
    }

    /// The end: what was held back is as it stands. A character that is not whole stays away.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.splitter.finish(&mut pieces);
        let mut pieces = self.call(pieces);
        if let Some(calls) = &mut self.calls {
            calls.finish(&mut pieces);
        }
        let mut pieces = self.keep(pieces);
        let rest = self.stops.finish();
        if !rest.is_empty() {
            self.answer.push_str(rest);
            pieces.push(Piece::Answer(rest.to_owned()));
        }
        pieces
    }

    /// Calls out of the answer.
    fn call(&mut self, pieces: Vec<Piece>) -> Vec<Piece> {
        self.latest.clear();
        for piece in &pieces {
            if let Piece::Answer(text) = piece {
                self.latest.push_str(text);
            }
        }
        let Some(calls) = &mut self.calls else { return pieces };
        let mut split = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Answer(text) => calls.push(&text, &mut split),
                other => split.push(other),
            }
        }
        split
    }

    /// What has come of a call that has begun, where its name and arguments are not known yet.
    pub fn begun_call(&self) -> Option<&str> {
        self.calls.as_ref().and_then(Splitter::begun)
    }

    /// Whether nothing that is wanted can follow: the one call has come that an answer may have.
    pub fn is_over(&self) -> bool {
        self.splitter.is_over() || self.calls.as_ref().is_some_and(Splitter::is_over)
    }

    /// Stop strings on the answer; after one, nothing counts.
    fn keep(&mut self, pieces: Vec<Piece>) -> Vec<Piece> {
        let mut kept = Vec::new();
        for piece in pieces {
            match piece {
                _ if self.stops.met().is_some() => {}
                Piece::Reasoning(text) => {
                    self.reasoning.push_str(&text);
                    kept.push(Piece::Reasoning(text));
                }
                Piece::Answer(text) => {
                    let text = self.stops.push(&text);
                    self.answer.push_str(text);
                    kept.extend((!text.is_empty()).then(|| Piece::Answer(text.to_owned())));
                }
                call => {
                    // No stop string reaches across a call.
                    let text = self.stops.finish();
                    self.answer.push_str(text);
                    kept.extend((!text.is_empty()).then(|| Piece::Answer(text.to_owned())));
                    kept.push(call);
                }
            }
        }
        kept
    }

    /// Where the text is.
    pub fn stage(&self) -> Stage<'_> {
        self.splitter.stage()
    }

    /// What the latest token has brought of the answer, its part of a character included.
    pub fn latest(&self) -> Vec<u8> {
        [self.latest.as_bytes(), self.decoder.pending()].concat()
    }

    /// Whether a control token is, or begins, the text that opens a thought.
    pub(crate) fn opens(&self, control: &str, opening: &str) -> bool {
        let mark = self.family.mark(control).filter(|mark| !mark.is_empty());
        mark.is_some_and(|mark| opening.starts_with(mark) || mark.starts_with(opening))
    }

    /// The stop string that was met: generating more is of no use.
    pub fn stop(&self) -> Option<&str> {
        self.stops.met()
    }

    /// What was thought so far.
    pub fn reasoning(&self) -> &str {
        &self.reasoning
    }

    /// What was said so far.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// All text as it was generated, control tokens included: what the cache holds.
    pub fn raw(&self) -> &str {
        &self.raw
    }
}
