//! Generated tokens to events: UTF-8, then the family's splitter, then stop strings, which end the answer only.

use super::{Event, Family, Split, Stops};
use crate::tokenizer::{StreamDecoder, Tokenizer};
use std::sync::Arc;

/// Reads one answer, token by token.
pub struct Reader {
    family: Arc<dyn Family>,
    decoder: StreamDecoder,
    splitter: Box<dyn Split>,
    stops: Stops,
    raw: String,
    reasoning: String,
    answer: String,
}

impl Reader {
    pub(super) fn new(family: Arc<dyn Family>, prompt: &str, stops: Stops) -> Self {
        Self {
            splitter: family.splitter(prompt),
            family,
            decoder: StreamDecoder::new(),
            stops,
            raw: String::new(),
            reasoning: String::new(),
            answer: String::new(),
        }
    }

    /// What a token completes, often nothing. After a stop string nothing comes any more.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Vec<Event> {
        let mut events = Vec::new();
        let control = tokenizer.is_control(token).then(|| tokenizer.token_text(token));
        match control {
            None => {
                let text = self.decoder.push(tokenizer, token);
                self.raw.push_str(text);
                self.splitter.push(text, &mut events);
            }
            Some(control) => {
                self.raw.push_str(control);
                if let Some(mark) = self.family.mark(control) {
                    self.splitter.push(self.decoder.flush(), &mut events);
                    self.splitter.push(mark, &mut events);
                }
            }
        }
        self.keep(events)
    }

    /// The end: what was held back is as it stands. A character that is not whole stays away.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.splitter.finish(&mut events);
        let mut events = self.keep(events);
        let rest = self.stops.finish();
        if !rest.is_empty() {
            self.answer.push_str(&rest);
            events.push(Event::Answer(rest));
        }
        events
    }

    /// Stop strings on the answer; after one, nothing counts.
    fn keep(&mut self, events: Vec<Event>) -> Vec<Event> {
        let mut kept = Vec::new();
        for event in events {
            match event {
                _ if self.stops.met().is_some() => {}
                Event::Reasoning(text) => {
                    self.reasoning.push_str(&text);
                    kept.push(Event::Reasoning(text));
                }
                Event::Answer(text) => {
                    let text = self.stops.push(&text);
                    self.answer.push_str(&text);
                    kept.extend((!text.is_empty()).then_some(Event::Answer(text)));
                }
            }
        }
        kept
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
