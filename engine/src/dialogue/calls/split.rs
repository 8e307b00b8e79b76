//! The text of an answer that may call tools, split: words, and calls that are taken out of them.
//!
//! It goes character by character, so cuts cannot matter. What turns out to be no call is given back as it stands: the
//! mark that had begun one is words, and what follows is read again.

use super::marks::{Found, Mark};
use super::{Body, Calls, Offer, Step, say};
use crate::dialogue::Piece;
use std::mem::take;
use std::sync::Arc;

/// White space before a call belongs to it, as far as it is not longer.
const LONGEST_SPACE: usize = 256;

pub(in crate::dialogue) struct Splitter {
    calls: Arc<Calls>,
    offer: Arc<Offer>,
    place: Place,
    /// What may be the beginning of a mark, with white space before it.
    held: String,
    /// Since the latest mark, as long as no call has come of it; and how much of it is the mark.
    raw: String,
    mark: usize,
    /// Where in it the call begins.
    call: usize,
    /// Whether there were words.
    spoke: bool,
    /// Whether there was a call.
    called: bool,
    /// Whether the list of calls has ended: what follows is no call unless something announces it.
    is_closed: bool,
}

enum Place {
    Words,
    /// Before the first call of a list, between two calls and behind the last.
    Between,
    Call {
        body: Box<dyn Body>,
        is_told: bool,
    },
    /// Behind the only call.
    Over,
}

impl Splitter {
    pub(in crate::dialogue) fn new(calls: Arc<Calls>, offer: Arc<Offer>) -> Self {
        Self {
            calls,
            offer,
            place: Place::Words,
            held: String::new(),
            raw: String::new(),
            mark: 0,
            call: 0,
            spoke: false,
            called: false,
            is_closed: false,
        }
    }

    /// More of the answer.
    pub(in crate::dialogue) fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        self.run(text.chars().rev().collect(), pieces);
    }

    /// The end: what has not become a call is words.
    pub(in crate::dialogue) fn finish(&mut self, pieces: &mut Vec<Piece>) {
        while !self.raw.is_empty() {
            let rest = self.give_back(pieces);
            self.run(rest, pieces);
        }
        let held = take(&mut self.held);
        if let Place::Words = self.place {
            say(pieces, Piece::Answer(held));
        }
    }

    /// Whether the only call that is wanted has come.
    pub(in crate::dialogue) fn is_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }

    /// Takes characters, the last one first.
    fn run(&mut self, mut todo: Vec<char>, pieces: &mut Vec<Piece>) {
        while let Some(c) = todo.pop() {
            match &mut self.place {
                Place::Over => return,
                Place::Words => self.words(c, pieces),
                Place::Between => {
                    if !self.between(c) {
                        todo.extend(self.leave(pieces));
                    }
                }
                Place::Call { body, is_told } => {
                    let before = pieces.len();
                    let step = body.push(c, pieces);
                    let tells = pieces[before..].iter().any(|piece| matches!(piece, Piece::Call(_)));
                    *is_told |= tells;
                    let is_told = *is_told;
                    match step {
                        Step::More | Step::Done if is_told => self.raw.clear(),
                        Step::More | Step::Done => self.raw.push(c),
                        Step::Failed if is_told => {
                            self.place = Place::Words;
                            todo.push(c);
                        }
                        Step::Failed => {
                            todo.push(c);
                            todo.extend(self.give_back(pieces));
                        }
                    }
                    if let Step::Done = step {
                        self.called = true;
                        self.place = if self.offer.several { Place::Between } else { Place::Over };
                    }
                }
            }
        }
    }

    /// A character of words, or of a mark behind them.
    fn words(&mut self, c: char, pieces: &mut Vec<Piece>) {
        self.held.push(c);
        let is_bare = self.calls.is_bare && !self.spoke && !self.called;
        if is_bare && self.held.trim_start() == "{" {
            return self.begin(c);
        }
        let marks = self.calls.starts.iter().chain(&self.calls.short);
        let places = self.held.char_indices().filter(|(_, c)| !c.is_whitespace()).map(|(at, _)| at);
        let found = places.map(|at| {
            let text = &self.held[at..];
            let whole = marks.clone().find(|mark| matches!(mark.at(text), Found::Whole(_)));
            (at, whole, marks.clone().any(|mark| mark.at(text) == Found::Begun))
        });
        let found = { found }.find(|(_, whole, begun)| whole.is_some() || *begun);
        let clear = found.as_ref().map_or(self.held.len(), |(at, ..)| *at);
        let whole = found.and_then(|(_, whole, _)| whole.cloned());
        let white = self.held[..clear].trim_end().len();
        let white = if clear - white > LONGEST_SPACE { clear } else { white };
        let words: String = self.held.drain(..white).collect();
        self.spoke |= !words.trim().is_empty();
        say(pieces, Piece::Answer(words));
        if let Some(mark) = whole {
            self.enter(&mark);
        }
    }

    /// Behind the mark that is held.
    fn enter(&mut self, mark: &Mark) {
        self.raw = take(&mut self.held);
        self.mark = self.raw.len();
        self.go_behind(*mark == self.calls.section);
    }

    /// What has come of a call whose name and arguments are not known yet.
    pub(in crate::dialogue) fn begun(&self) -> Option<&str> {
        matches!(self.place, Place::Call { is_told: false, .. }).then(|| &self.raw[self.call..])
    }

    /// Whether a control token may be a part of calls.
    pub(in crate::dialogue) fn has_mark(&self, control: &str) -> bool {
        self.calls.has_mark(control)
    }

    /// Behind the mark of a list or of a call.
    fn go_behind(&mut self, is_list: bool) {
        (self.call, self.is_closed) = (self.raw.len(), false);
        let call = || Place::Call { body: self.calls.body(&self.offer), is_told: false };
        self.place = if is_list { Place::Between } else { call() };
    }

    /// A call that nothing but its own first character announces, which is the last that is held.
    fn begin(&mut self, c: char) {
        if self.raw.is_empty() {
            self.mark = self.held.len();
        }
        self.raw += &take(&mut self.held);
        self.call = self.raw.len() - c.len_utf8();
        let mut body = self.calls.body(&self.offer);
        body.push(c, &mut vec![]);
        self.place = Place::Call { body, is_told: false };
    }

    /// A character where only calls and what stands between them may follow; whether it is of these.
    fn between(&mut self, c: char) -> bool {
        self.held.push(c);
        let text = self.held.trim_start();
        if text.is_empty() {
            return self.held.len() < LONGEST_SPACE;
        }
        let may_begin = self.calls.open.is_empty() && !self.is_closed;
        if may_begin && self.calls.kind.begins(c) && text.len() == c.len_utf8() {
            self.begin(c);
            return true;
        }
        let starts = self.calls.starts.iter();
        if let Some(mark) = starts.clone().find(|mark| matches!(mark.at(text), Found::Whole(_))).cloned() {
            if self.raw.is_empty() {
                self.enter(&mark);
            } else {
                self.raw += &take(&mut self.held);
                self.go_behind(mark == self.calls.section);
            }
            return true;
        }
        // Behind the beginning of a list nothing ends yet.
        let ends = self.calls.ends.iter().filter(|_| self.raw.is_empty());
        if let Some(at) = ends.clone().position(|mark| matches!(mark.at(text), Found::Whole(_))) {
            self.held.clear();
            self.is_closed |= at >= self.calls.separators;
            return true;
        }
        starts.chain(ends).any(|mark| mark.at(text) == Found::Begun)
    }

    /// What follows is no call: what is held is to be read as words, the last character first.
    fn leave(&mut self, pieces: &mut Vec<Piece>) -> Vec<char> {
        if !self.raw.is_empty() {
            self.raw += &take(&mut self.held);
            return self.give_back(pieces);
        }
        self.place = Place::Words;
        take(&mut self.held).trim_start().chars().rev().collect()
    }

    /// The latest mark was none: it is words, and what followed is to be read again, the last character first.
    fn give_back(&mut self, pieces: &mut Vec<Piece>) -> Vec<char> {
        let raw = take(&mut self.raw);
        let (mark, rest) = raw.split_at(self.mark);
        self.spoke = true;
        say(pieces, Piece::Answer(mark.to_owned()));
        self.place = Place::Words;
        let rest = rest.to_owned() + &take(&mut self.held);
        rest.chars().rev().collect()
    }
}
