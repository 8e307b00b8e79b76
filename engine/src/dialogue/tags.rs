//! Thoughts between two tags before the answer: `<think>…</think>` (Qwen3, DeepSeek, GLM, MiniMax, Kimi) and whatever
//! else a template writes there.
//!
//! Where the prompt ends with the opening tag the text begins within. White space around the tags belongs to them, as
//! templates write it. Only the beginning of a text counts, and its end where the answer has tags of its own (Hunyuan's
//! `<answer>…</answer>`): an answer may speak of tags.

use super::trial::{ANSWER, Cut, THOUGHT, Trial};
use super::{Family, Offer, Piece, Split, Stage, begun};
use std::sync::Arc;

/// What stands around thoughts, and around answers where something does.
#[derive(Clone, Debug)]
struct Tags {
    thought: Pair,
    answer: Option<Pair>,
}

/// Two tags.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    open: String,
    close: String,
}

impl Pair {
    fn new(open: impl Into<String>, close: impl Into<String>) -> Self {
        Self { open: open.into(), close: close.into() }
    }
}

pub(super) fn detect(trial: &Trial) -> Option<Arc<dyn Family>> {
    let answered = trial.answered.find(ANSWER).map(|at| &trial.answered[..at]);
    let thought = trial.thought.iter().find_map(|text| around(text, answered));
    let thought = thought.or_else(|| empty_pair(answered?)).or_else(|| opened(trial));
    let thought = thought.or_else(|| cut(trial)).or_else(|| empty_pair(&trial.silent))?;
    Some(Arc::new(Tags { answer: around_answers(trial, &thought), thought }))
}

/// The tags between which the template wrote a thought, with what stands before an answer without one.
fn around(text: &str, answered: Option<&str>) -> Option<Pair> {
    let (open, close) = beside(text, THOUGHT)?;
    // The head of the turn is no tag.
    let head = answered.and_then(last_tag);
    (head != Some(open) && are_pair(open, close)).then(|| Pair::new(open, close))
}

/// The tags on both sides of a word.
fn beside<'t>(text: &'t str, word: &str) -> Option<(&'t str, &'t str)> {
    let at = text.find(word)?;
    Some((last_tag(&text[..at])?, first_tag(&text[at + word.len()..])?))
}

/// A pair without anything in it, where an answer begins.
fn empty_pair(before: &str) -> Option<Pair> {
    let close = last_tag(before)?;
    let open = last_tag(before.trim_end().strip_suffix(close)?)?;
    (closing(open) == close || is_mirrored(open, close)).then(|| Pair::new(open, close))
}

/// Whether they are `<|name>word` and `<name|>`.
fn is_mirrored(open: &str, close: &str) -> bool {
    let name = open.strip_prefix("<|").and_then(|rest| rest.split_once('>'));
    name.is_some_and(|(name, _)| close.strip_prefix('<') == Some(&*format!("{name}|>")))
}

/// The tag that the beginning of every answer opens.
fn opened(trial: &Trial) -> Option<Pair> {
    let open = last_tag(&trial.prompt)?;
    let close = closing(open);
    trial.source.contains(&close).then(|| Pair::new(open, close))
}

/// The tag up to which the template cuts earlier answers.
fn cut(trial: &Trial) -> Option<Pair> {
    let is_cut = |text: &str| text.contains(ANSWER) && !text.contains(THOUGHT);
    trial.cut.iter().find(|cut| is_cut(&cut.behind)).map(|cut| Pair::new(&*cut.open, &*cut.close))
}

/// The tags that the template writes around answers, or out of which it takes earlier ones; not those of thoughts.
fn around_answers(trial: &Trial, thought: &Pair) -> Option<Pair> {
    let mut texts = trial.thought.iter().chain([&trial.answered]);
    let written = texts.find_map(|text| {
        let (open, close) = beside(text, ANSWER)?;
        // The head of the turn is no tag.
        (closing(open) == close && last_tag(&trial.prompt) != Some(open)).then(|| Pair::new(open, close))
    });
    let is_taken_out = |cut: &&Cut| {
        let before = cut.between.find(ANSWER).map(|at| &cut.between[..at]);
        before.is_some_and(|before| !before.contains(THOUGHT) && last_tag(before) != Some(&*cut.open))
    };
    let mut others = trial.cut.iter().filter(|cut| cut.close != thought.close);
    written.or_else(|| others.find(is_taken_out).map(|cut| Pair::new(&*cut.open, &*cut.close)))
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

    fn closing(&self) -> Option<&str> {
        Some(&self.thought.close)
    }

    fn splitter(&self, prompt: &str, _: Option<&Arc<Offer>>) -> Box<dyn Split> {
        let is_within = prompt.trim_end().ends_with(&self.thought.open);
        Box::new(Splitter { tags: self.clone(), place: Place::Before { is_within }, held: String::new() })
    }

    fn mark<'t>(&'t self, control: &'t str) -> Option<&'t str> {
        let pairs = [Some(&self.thought), self.answer.as_ref()];
        let mut tags = pairs.into_iter().flatten().flat_map(|pair| [&pair.open, &pair.close]);
        tags.any(|tag| tag.contains(control)).then_some(control)
    }
}

enum Place {
    /// Nothing but white space has come.
    Before {
        is_within: bool,
    },
    Thought,
    /// After a thought's closing tag, before the answer's tag or first word.
    Between,
    /// After the answer's opening tag, before its first word.
    Opened,
    /// An answer behind an opening tag, which a closing one may end.
    Tagged,
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

    fn stage(&self) -> Stage<'_> {
        match self.place {
            Place::Before { is_within: false } => {
                let open = &*self.tags.thought.open;
                let missing = open.strip_prefix(self.held.trim_start()).unwrap_or(open);
                Stage::Undecided { opening: missing, has_begun: missing.len() < open.len() }
            }
            Place::Before { is_within: true } | Place::Thought => Stage::Thought,
            Place::Between | Place::Opened => Stage::Between,
            Place::Tagged | Place::Answer => Stage::Answer,
        }
    }

    fn finish(&mut self, pieces: &mut Vec<Piece>) {
        let rest = std::mem::take(&mut self.held);
        match self.place {
            Place::Before { is_within: true } => reasoning(rest.trim_start(), pieces),
            Place::Thought => reasoning(&rest, pieces),
            Place::Tagged => answer(self.untagged(&rest).unwrap_or(&rest), pieces),
            Place::Opened => {}
            Place::Before { is_within: false } | Place::Between | Place::Answer => answer(&rest, pieces),
        }
    }
}

impl Splitter {
    /// Takes what is clear off what is held; whether the place changed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.place {
            Place::Before { is_within } => self.begin(is_within),
            Place::Thought => self.think(pieces),
            Place::Between => {
                self.trim();
                !self.held.is_empty() && self.begin_answer()
            }
            Place::Opened => {
                self.trim();
                let goes_on = !self.held.is_empty();
                if goes_on {
                    self.place = Place::Tagged;
                }
                goes_on
            }
            Place::Tagged => {
                let clear = self.clear();
                answer(&self.held[..clear], pieces);
                self.held.drain(..clear);
                false
            }
            Place::Answer => {
                answer(&self.held, pieces);
                self.held.clear();
                false
            }
        }
    }

    fn trim(&mut self) {
        self.held = self.held.trim_start().to_owned();
    }

    /// Where a thought's tag or the first word stands; whether it is clear which.
    fn begin(&mut self, is_within: bool) -> bool {
        let text = self.held.trim_start();
        let Pair { open, close } = &self.tags.thought;
        if let Some(rest) = text.strip_prefix(&**open) {
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
        } else if let Some(rest) = text.strip_prefix(&**close) {
            // Nothing was thought, and the opening tag forgotten.
            self.held = rest.to_owned();
            self.place = Place::Between;
        } else if close.starts_with(text) {
            return false;
        } else {
            return self.begin_answer();
        }
        true
    }

    /// Where the answer's tag or its first word stands; whether it is clear which.
    fn begin_answer(&mut self) -> bool {
        let text = self.held.trim_start();
        self.place = match &self.tags.answer {
            Some(tags) if text.starts_with(&*tags.open) => {
                self.held = text[tags.open.len()..].to_owned();
                Place::Opened
            }
            Some(tags) if tags.open.starts_with(text) => return false,
            _ => Place::Answer,
        };
        true
    }

    /// How much of an answer is neither its closing tag nor may become one, with white space before it.
    fn clear(&self) -> usize {
        let begun = self.tags.answer.as_ref().map_or(0, |tags| begun(&self.held, &[&tags.close]));
        let clear = self.untagged(&self.held).unwrap_or(&self.held[..self.held.len() - begun]);
        clear.trim_end().len()
    }

    /// What stands before the closing tag of an answer, where `text` ends with it.
    fn untagged<'t>(&self, text: &'t str) -> Option<&'t str> {
        let close = &*self.tags.answer.as_ref()?.close;
        text.trim_end().strip_suffix(close).map(str::trim_end)
    }

    fn think(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if let Some((thought, rest)) = self.held.split_once(&*self.tags.thought.close) {
            reasoning(thought.trim_end(), pieces);
            self.held = rest.to_owned();
            self.place = Place::Between;
            return true;
        }
        let clear = self.held.len() - begun(&self.held, &[&self.tags.thought.close]);
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
