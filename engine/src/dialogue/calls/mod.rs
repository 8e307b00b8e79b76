//! How a model calls tools, read off what its chat template makes of turns that call some.
//!
//! What stands around names and arguments there is the syntax; a kind of syntax is one file and one line in `KINDS`. A
//! syntax counts only if it reads the template's own calls back. A name that no tool has still makes a call: the client
//! knows best what to say about it, and words would hide that the model tried.

mod forced;
mod json;
mod keyed;
mod literal;
mod marks;
mod named;
mod object;
mod offer;
mod parameters;
mod split;
#[cfg(test)]
mod tests;
mod written;

use super::Piece;
use super::trial::Trial;
use crate::tokenizer::ChatTemplate;
use marks::Mark;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;
use written::{MANNERS, Written};

pub(super) use forced::Rules;
pub(super) use json::{Fed, Scanner};
pub use offer::{Offer, Tool};
pub(super) use split::Splitter;
#[cfg(test)]
pub(crate) use tests::TEMPLATES;
pub use written::Manner;

/// A way to write one call.
trait Kind: Debug + Send + Sync {
    /// For people.
    fn name(&self) -> &'static str;

    /// Whether a call begins with it, in a list where nothing stands before one.
    fn begins(&self, c: char) -> bool {
        c == '{'
    }

    /// Begins to read a call, from behind what stands before it. Where that is nothing (`is_bare`) only names that are on
    /// offer make a call.
    fn body(&self, offer: &Arc<Offer>, is_bare: bool) -> Box<dyn Body>;

    /// A rule of a grammar for calls of a tool; its name.
    fn rule(&self, tool: &Tool, rules: &mut Rules<'_>) -> String;

    /// Texts within a call in which control tokens may stand.
    fn marks(&self) -> Vec<&str> {
        vec![]
    }
}

/// Reads one call.
trait Body: Send {
    /// The next character, and the pieces that come of it.
    fn push(&mut self, c: char, pieces: &mut Vec<Piece>) -> Step;
}

/// What a character is to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    More,
    /// Its last one.
    Done,
    /// No part of it: it is none, or ends in the midst.
    Failed,
}

/// A kind, and where the calls are in what a template wrote.
type Recognized = (Arc<dyn Kind>, Vec<(usize, usize)>);

/// Recognizes a kind by what a template writes.
type Detect = fn(&Written) -> Option<Recognized>;

/// All kinds; the first that recognizes itself.
static KINDS: &[Detect] = &[object::detect, named::detect, parameters::detect, keyed::detect];

/// How calls are written.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) manner: Manner,
    kind: Arc<dyn Kind>,
    /// Before the first call, and before each.
    section: Mark,
    open: Mark,
    /// Those two, as far as there are any.
    starts: Vec<Mark>,
    /// The end of `open`, which models forget the beginning of.
    short: Option<Mark>,
    /// Behind a call and between two; those behind the first so many close the list.
    ends: Vec<Mark>,
    separators: usize,
    /// Whether nothing stands before a call, which then is the beginning of an answer.
    is_bare: bool,
    /// What the template writes before calls, between two and behind the last.
    before: String,
    between: String,
    behind: String,
}

impl Calls {
    /// `None` where the template writes no calls, or in no way that we can read. `thought` is the tag that ends a thought.
    pub(super) fn of(template: &ChatTemplate, trial: &Trial, thought: Option<&str>) -> Option<Self> {
        if !template.source().contains("tool_calls") {
            return None;
        }
        MANNERS.iter().find_map(|&manner| {
            let written = Written::new(template, trial, thought, manner)?;
            KINDS.iter().find_map(|detect| {
                let (kind, places) = detect(&written)?;
                let manner = manner.with_rest(template);
                let calls = Self::around(&written, &places, kind, manner, template.source())?;
                calls.reads(&written, places.len()).then_some(calls)
            })
        })
    }

    /// JSON objects that a grammar forces on a model which knows no calls.
    pub(super) fn bare() -> Self {
        Self {
            manner: Manner::default(),
            kind: object::plain(),
            section: Mark::default(),
            open: Mark::default(),
            starts: vec![],
            short: None,
            ends: vec![],
            separators: 0,
            is_bare: true,
            before: String::new(),
            between: String::new(),
            behind: String::new(),
        }
    }

    fn body(&self, offer: &Arc<Offer>) -> Box<dyn Body> {
        self.kind.body(offer, self.is_bare)
    }

    /// What stands around calls in these places.
    fn around(
        written: &Written,
        places: &[(usize, usize)],
        kind: Arc<dyn Kind>,
        manner: Manner,
        source: &str,
    ) -> Option<Self> {
        const PYTHON: &str = "<|python_tag|>";
        let text = &*written.text;
        let before = &text[..places[0].0];
        let behind = &text[places[places.len() - 1].1..];
        let behind = behind.strip_suffix(&*written.tail).unwrap_or(behind);
        let end = written.tail.trim();
        if !end.is_empty() && behind.trim_end().trim_end_matches(end).contains(end) {
            return None; // two turns for one
        }
        let between = match places {
            [(_, end), (start, _)] => Some(&text[*end..*start]),
            _ => None,
        };
        let open = between.map_or(before, |between| common_end(between, before));
        let close = between.map_or(behind, |between| &between[..between.len() - open.len()]);
        let mut section = Mark::new(&before[..before.len() - open.len()]);
        let open = Mark::new(open);
        let mut ends = Mark::new(close).words().to_vec();
        let mut separators = ends.len();
        if !section.is_empty() {
            let behind = behind.trim_start().strip_prefix(close.trim()).unwrap_or(behind);
            // What closes the list: signs up to its tag.
            let behind = Mark::new(behind);
            let tag = behind.words().iter().position(|word| word.starts_with('<') || word.len() > 1);
            ends.extend(behind.words().iter().take(tag.map_or(usize::MAX, |at| at + 1)).cloned());
        }
        // Up to the last of these; what follows ends the turn.
        let end =
            ends.iter().fold(0, |end, word| behind[end..].find(word).map_or(end, |at| end + at + word.len()));
        let behind = &behind[..end];
        let is_bare = section.is_empty() && open.is_empty();
        if is_bare {
            ends.push(";".to_owned());
            separators = ends.len();
            section = Mark::new(if source.contains(PYTHON) { PYTHON } else { "" });
        }
        let starts: Vec<Mark> =
            [&section, &open].into_iter().filter(|mark| !mark.is_empty()).cloned().collect();
        let is_begun_tag = |word: &&String| word.starts_with('<') && !word.ends_with('>') && word.len() > 4;
        let last = open.words().last().filter(|_| open.words().len() > 1);
        let short = last.filter(is_begun_tag).map(|_| open.last());
        let ends = ends.iter().map(|word| Mark::new(word)).collect();
        let texts = [before, between.unwrap_or_default(), behind].map(str::to_owned);
        let [before, between, behind] = if is_bare { Default::default() } else { texts };
        let is_usable = !is_bare || kind.name() == "object";
        let calls = Self {
            manner,
            kind,
            section,
            open,
            starts,
            short,
            ends,
            separators,
            is_bare,
            before,
            between,
            behind,
        };
        is_usable.then_some(calls)
    }

    /// Whether it finds in what the template wrote the calls that are there, and nothing else.
    fn reads(&self, written: &Written, count: usize) -> bool {
        let calls = written.calls();
        let tools = calls
            .iter()
            .map(|(name, _)| Tool { name: (*name).to_owned(), parameters: written::parameters() });
        let offer = Offer { tools: tools.collect(), several: true };
        let (found, words) = self.read(offer, &written.text);
        let is_same = |(found, (name, arguments)): (&(String, Value), &(&str, Value))| {
            found.0 == *name && is_read(&found.1, arguments)
        };
        // A turn that calls may end otherwise than one that speaks.
        let is_end = written.tail.trim().ends_with(words.trim()) || Mark::new(&words).words().len() == 1;
        found.len() == count && found.iter().zip(&calls).all(is_same) && is_end
    }

    /// The calls in a text, and its words.
    fn read(&self, offer: Offer, text: &str) -> (Vec<(String, Value)>, String) {
        let mut splitter = Splitter::new(Arc::new(self.clone()), Arc::new(offer));
        let mut pieces = vec![];
        splitter.push(text, &mut pieces);
        splitter.finish(&mut pieces);
        let (mut calls, mut words) = (vec![], String::new());
        for piece in pieces {
            match piece {
                Piece::Call(name) => calls.push((name, String::new())),
                Piece::Arguments(more) => calls.iter_mut().rev().take(1).for_each(|call| call.1 += &more),
                Piece::Answer(text) | Piece::Reasoning(text) => words += &text,
            }
        }
        let value = |(name, text): (String, String)| (name, serde_json::from_str(&text).unwrap_or_default());
        (calls.into_iter().map(value).collect(), words)
    }

    /// Whether a control token may be a part of calls.
    pub(super) fn has_mark(&self, control: &str) -> bool {
        let mut words = self.starts.iter().chain(&self.ends).flat_map(Mark::words);
        words.any(|word| word.contains(control))
            || self.kind.marks().iter().any(|text| text.contains(control))
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind.name()
    }
}

/// Whether arguments are those that were written. Some templates write Python's words for an object, which stay a text.
fn is_read(found: &Value, written: &Value) -> bool {
    let (Value::Object(found), Value::Object(written)) = (found, written) else { return false };
    let is_same = |(key, value): (&String, &Value)| {
        let found = found.get(key);
        found == Some(value) || value.is_object() && found.is_some_and(Value::is_string)
    };
    found.len() == written.len() && written.iter().all(is_same)
}

/// The first manner in which the template writes a call with this before the tool's name.
pub(super) fn manner_with(template: &ChatTemplate, before: &str) -> Option<Manner> {
    MANNERS.into_iter().find(|&manner| written::names_a_tool(template, manner, before))
}

/// Whether a template tells the model which tools there are.
pub(super) fn are_offered(template: &ChatTemplate) -> bool {
    written::offers(template)
}

/// The longest common end of two texts that begins in no tag of either.
fn common_end<'t>(one: &'t str, other: &str) -> &'t str {
    let same = one.chars().rev().zip(other.chars().rev()).take_while(|(one, other)| one == other);
    let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
    let mut start = one.len() - length;
    let is_within = |text: &str, at: usize| {
        let open = text[..at].rfind(['<', '[']);
        open.is_some_and(|open| !text[open..at].contains(['>', ']']))
    };
    while start < one.len() && (is_within(one, start) || is_within(other, other.len() - (one.len() - start)))
    {
        let next = one[start..].char_indices().skip(1).find(|(_, c)| "<[".contains(*c));
        start = next.map_or(one.len(), |(at, _)| start + at);
    }
    &one[start..]
}

/// Adds a piece to those that there are, as one with the last where they belong together.
fn say(pieces: &mut Vec<Piece>, piece: Piece) {
    match (pieces.last_mut(), piece) {
        (_, piece) if piece.text().is_empty() => {}
        (Some(Piece::Answer(text)), Piece::Answer(more)) => text.push_str(&more),
        (Some(Piece::Arguments(text)), Piece::Arguments(more)) => text.push_str(&more),
        (_, piece) => pieces.push(piece),
    }
}

/// Whether a tool's name may hold it.
fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || "_-.".contains(c)
}
