//! Thoughts between two tags before the answer: `<think>…</think>` (Qwen3, DeepSeek, GLM, MiniMax, Kimi) and whatever
//! else a template writes there.
//!
//! Where the prompt ends with the opening tag the text begins within. White space around the tags belongs to them, as
//! templates write it. Only the beginning of a text counts: an answer may speak of tags.

use super::trial::{ANSWER, THOUGHT, Trial};
use super::{Family, Piece, Split, begun};
use std::sync::Arc;

/// Two tags.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tags {
    pub(super) open: String,
    pub(super) close: String,
}

pub(super) fn detect(trial: &Trial) -> Option<Arc<dyn Family>> {
    let found = trial.thought.iter().find_map(|text| around(text, &trial.answered));
    let found =
        found.or_else(|| empty_pair(&trial.answered)).or_else(|| opened(trial)).or_else(|| cut(trial));
    Some(Arc::new(found?))
}

/// The tags between which the template wrote a thought.
fn around(text: &str, answered: &str) -> Option<Tags> {
    let at = text.find(THOUGHT)?;
    let open = last_tag(&text[..at])?;
    let close = first_tag(&text[at + THOUGHT.len()..])?;
    // The head of the turn is no tag.
    let head = answered.find(ANSWER).and_then(|at| last_tag(&answered[..at]));
    (head != Some(open) && are_pair(open, close))
        .then(|| Tags { open: open.to_owned(), close: close.to_owned() })
}

/// A pair without anything in it before an answer without thoughts.
fn empty_pair(answered: &str) -> Option<Tags> {
    let before = &answered[..answered.find(ANSWER)?];
    let close = last_tag(before)?;
    let open = last_tag(before.trim_end().strip_suffix(close)?)?;
    (closing(open) == close).then(|| Tags { open: open.to_owned(), close: close.to_owned() })
}

/// The tag that the beginning of every answer opens.
fn opened(trial: &Trial) -> Option<Tags> {
    let open = last_tag(&trial.prompt)?;
    let close = closing(open);
    trial.source.contains(&close).then(|| Tags { open: open.to_owned(), close })
}

/// The tag up to which the template cuts earlier answers.
fn cut(trial: &Trial) -> Option<Tags> {
    let is_cut = |text: &str| text.contains(ANSWER) && !text.contains(THOUGHT);
    let (close, _) = trial.cut.iter().find(|(_, text)| is_cut(text))?;
    Some(Tags { open: close.replacen('/', "", 1), close: close.clone() })
}

/// `</name>` for `<name>`.
fn closing(open: &str) -> String {
    open.chars().take(1).chain(['/']).chain(open.chars().skip(1)).collect()
}

const BRACKETS: [(char, char); 2] = [('<', '>'), ('[', ']')];

/// The tag that `text` ends with, a word after it included, as in `<|channel>thought`.
fn last_tag(text: &str) -> Option<&str> {
    let text = text.trim_end();
    let marked = text.trim_end_matches(char::is_alphanumeric);
    BRACKETS.iter().find_map(|&(open, close)| {
        let tag = &marked[marked.strip_suffix(close)?.rfind(open)?..];
        is_tag(tag).then(|| &text[marked.len() - tag.len()..])
    })
}

/// The tag that `text` begins with.
fn first_tag(text: &str) -> Option<&str> {
    let text = text.trim_start();
    BRACKETS.iter().find_map(|&(open, close)| {
        let tag = &text[..text.strip_prefix(open)?.find(close)? + 2];
        is_tag(tag).then_some(tag)
    })
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 64 && tag.chars().any(char::is_alphanumeric) && !tag.contains(char::is_whitespace)
}

/// Whether two different tags have one name, but for the words that say which of them it is.
fn are_pair(open: &str, close: &str) -> bool {
    let name = |tag: &str| {
        let end = tag.rfind(['>', ']']).map_or(tag.len(), |end| end + 1);
        let words = tag[..end].to_lowercase();
        let words = words.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let words = words.filter(|word| !["begin", "start", "end", "of"].contains(word));
        words.collect::<Vec<_>>().join(" ")
    };
    open != close && name(open) == name(close)
}

impl Family for Tags {
    fn name(&self) -> &'static str {
        "tags"
    }

    fn splitter(&self, prompt: &str) -> Box<dyn Split> {
        let is_within = prompt.trim_end().ends_with(&self.open);
        Box::new(Splitter { tags: self.clone(), place: Place::Before { is_within }, held: String::new() })
    }

    fn mark<'t>(&'t self, control: &'t str) -> Option<&'t str> {
        [&self.open, &self.close].into_iter().any(|tag| tag.contains(control)).then_some(control)
    }
}

enum Place {
    /// Nothing but white space has come.
    Before {
        is_within: bool,
    },
    Thought,
    /// After the closing tag, before the answer's first word.
    Between,
    Answer,
}

struct Splitter {
    tags: Tags,
    place: Place,
    held: String, // may be the beginning of a tag, or white space before one
}

impl Split for Splitter {
    fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        self.held.push_str(text);
        while self.step(pieces) {}
    }

    fn finish(&mut self, pieces: &mut Vec<Piece>) {
        let rest = std::mem::take(&mut self.held);
        match self.place {
            Place::Before { is_within: true } => reasoning(rest.trim_start(), pieces),
            Place::Thought => reasoning(&rest, pieces),
            Place::Between => {}
            Place::Before { is_within: false } | Place::Answer => answer(&rest, pieces),
        }
    }
}

impl Splitter {
    /// Takes what is clear off what is held; whether the place changed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.place {
            Place::Before { is_within } => {
                let text = self.held.trim_start();
                let (open, close) = (&*self.tags.open, &*self.tags.close);
                if let Some(rest) = text.strip_prefix(open) {
                    self.held = rest.to_owned();
                    self.place = Place::Before { is_within: true };
                    return true;
                }
                if text.is_empty() || open.starts_with(text) {
                    return false;
                }
                // Within, white space before the first word is the tag's.
                if is_within {
                    self.held = text.to_owned();
                    self.place = Place::Thought;
                } else if let Some(rest) = text.strip_prefix(close) {
                    // Nothing was thought, and the opening tag forgotten.
                    self.held = rest.to_owned();
                    self.place = Place::Between;
                } else if close.starts_with(text) {
                    return false;
                } else {
                    self.place = Place::Answer;
                }
                true
            }
            Place::Thought => self.think(pieces),
            Place::Between => {
                self.held = self.held.trim_start().to_owned();
                let goes_on = !self.held.is_empty();
                if goes_on {
                    self.place = Place::Answer;
                }
                goes_on
            }
            Place::Answer => {
                answer(&self.held, pieces);
                self.held.clear();
                false
            }
        }
    }

    fn think(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if let Some((thought, rest)) = self.held.split_once(&*self.tags.close) {
            reasoning(thought.trim_end(), pieces);
            self.held = rest.to_owned();
            self.place = Place::Between;
            return true;
        }
        let clear = self.held.len() - begun(&self.held, &[&self.tags.close]);
        let clear = self.held[..clear].trim_end().len();
        reasoning(&self.held[..clear], pieces);
        self.held.drain(..clear);
        false
    }
}

fn reasoning(text: &str, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Reasoning(text.to_owned()));
    }
}

fn answer(text: &str, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Answer(text.to_owned()));
    }
}
