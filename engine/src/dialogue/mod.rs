//! What a model's generated text means: which of it was thought, which is the answer, and which calls a tool.
//!
//! A family of formats is one file and one line in `FAMILIES`. Which one a model speaks is read off what its chat
//! template writes around thoughts and answers (`trial.rs`), never off its name. The order for generated text is UTF-8,
//! split, stop strings: [`Reader`] keeps it. Knows neither sessions nor who reads the answer.

mod harmony;
mod plain;
mod reader;
mod stops;
mod tags;
#[cfg(test)]
mod tests;
mod trial;

use crate::tokenizer::ChatTemplate;
use std::fmt::Debug;
use std::sync::Arc;
use trial::Trial;

pub use reader::Reader;
pub use stops::StopScanner;

/// A piece of generated text, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What the model thought.
    Reasoning(String),
    /// What it says.
    Answer(String),
    /// The name of a tool that it calls; the call's arguments follow.
    Call(String),
    /// More of the latest call's arguments, which together are a JSON object.
    Arguments(String),
}

impl Piece {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Self::Reasoning(text) | Self::Answer(text) | Self::Call(text) | Self::Arguments(text) => text,
        }
    }
}

/// Where in an answer a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage<'t> {
    /// Nothing has come but white space, or the beginning of a thought's tag: it is begun by `opening`, what is missing of
    /// the tag; else the answer begins.
    Undecided {
        /// Text or control token.
        opening: &'t str,
        /// Whether a part of the tag has come.
        has_begun: bool,
    },
    /// In a thought, or in what stands around it.
    Thought,
    /// Behind the thoughts, before the answer's first word; white space belongs to neither.
    Between,
    /// In the answer.
    Answer,
}

/// A way to write thoughts and answers.
trait Family: Debug + Send + Sync {
    /// For people.
    fn name(&self) -> &'static str;

    /// Begins to split the text that follows `prompt`.
    fn splitter(&self, prompt: &str) -> Box<dyn Split>;

    /// What a splitter wants to see in the place of a control token; nothing where the token says nothing.
    fn mark<'t>(&'t self, control: &'t str) -> Option<&'t str>;
}

/// Splits text that comes in pieces; however it is cut, the pieces are the same but for where they are cut.
trait Split: Send {
    /// More text.
    fn push(&mut self, text: &str, pieces: &mut Vec<Piece>);

    /// Where the text is.
    fn stage(&self) -> Stage<'_>;

    /// The end: what was held back is as it stands.
    fn finish(&mut self, pieces: &mut Vec<Piece>);
}

/// Recognizes a family by what a template writes.
type Detect = fn(&Trial) -> Option<Arc<dyn Family>>;

/// All families; the first that recognizes itself.
static FAMILIES: &[Detect] = &[harmony::detect, tags::detect, plain::detect];

/// How a model's answers are to be read.
#[derive(Clone, Debug)]
pub struct Dialogue(Arc<dyn Family>);

impl Dialogue {
    /// As the template writes thoughts and answers.
    pub fn of(template: &ChatTemplate) -> Self {
        let trial = Trial::new(template);
        FAMILIES.iter().find_map(|detect| detect(&trial)).map_or_else(Self::plain, Self)
    }

    /// Everything is the answer: for models without a template.
    pub fn plain() -> Self {
        Self(Arc::new(plain::Plain))
    }

    /// The family's name.
    pub fn family(&self) -> &'static str {
        self.0.name()
    }

    /// Whether thoughts are told apart.
    pub fn has_reasoning(&self) -> bool {
        self.0.name() != plain::NAME
    }

    /// Begins to read what a model generates after `prompt`, up to one of `stops`.
    pub fn reader(&self, prompt: &str, stops: StopScanner) -> Reader {
        Reader::new(self.0.clone(), prompt, stops)
    }
}

/// Length of the longest end of `text` that is the beginning of one of `marks` and not all of it.
fn begun(text: &str, marks: &[impl AsRef<str>]) -> usize {
    let marks = || marks.iter().map(AsRef::as_ref);
    let longest = marks().map(|mark| mark.len().saturating_sub(1)).max().unwrap_or(0);
    let first = text.len().saturating_sub(longest);
    let ends = (first..text.len()).filter(|&at| text.is_char_boundary(at)).map(|at| &text[at..]);
    let mut begun =
        ends.filter(|end| marks().any(|mark: &str| mark.len() > end.len() && mark.starts_with(end)));
    begun.next().map_or(0, str::len)
}
