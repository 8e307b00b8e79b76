//! What a model's generated text means: which of it was thought, which is the answer, and which calls a tool.
//!
//! A family of formats is one file and one line in `FAMILIES`. Which one a model speaks is read off what its chat
//! template writes around thoughts, answers and calls (`trial.rs`, `calls/`), never off its name. The order for generated
//! text is UTF-8, thoughts, calls, stop strings: [`Reader`] keeps it. Knows neither sessions nor who reads the answer.

mod calls;
mod harmony;
mod plain;
mod reader;
mod stops;
mod tags;
#[cfg(test)]
mod tests;
mod trial;

use crate::tokenizer::{ChatTemplate, Tokenizer};
use calls::Calls;
use std::fmt::Debug;
use std::sync::Arc;
use trial::Trial;

#[cfg(test)]
pub(crate) use calls::TEMPLATES;
pub use calls::{Manner, Offer, Tool};
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

    /// The tag that ends a thought.
    fn closing(&self) -> Option<&str> {
        None
    }

    /// Whether calls of tools are a part of it, which others have beside it.
    fn has_calls(&self) -> bool {
        false
    }

    /// A grammar in Lark of whole answers that call a tool, where calls are a part of it.
    fn grammar_of_calls(&self, _: &Offer, _: &Tokenizer) -> Option<String> {
        None
    }

    /// Begins to split the text that follows `prompt`. Calls are told apart where there is an offer, if they are a part
    /// of the family.
    fn splitter(&self, prompt: &str, offer: Option<&Arc<Offer>>) -> Box<dyn Split>;

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

    /// Whether nothing that is wanted can follow.
    fn is_over(&self) -> bool {
        false
    }
}

/// Recognizes a family by what a template writes.
type Detect = fn(&Trial) -> Option<Arc<dyn Family>>;

/// All families; the first that recognizes itself.
static FAMILIES: &[Detect] = &[harmony::detect, tags::detect, plain::detect];

/// How a model's answers are to be read.
#[derive(Clone, Debug)]
pub struct Dialogue {
    family: Arc<dyn Family>,
    calls: Option<Arc<Calls>>,
    manner: Option<Manner>,
    is_told_of_tools: bool,
}

impl Dialogue {
    /// As the template writes thoughts, answers and calls.
    pub fn of(template: &ChatTemplate) -> Self {
        let trial = Trial::new(template);
        let Some(family) = FAMILIES.iter().find_map(|detect| detect(&trial)) else { return Self::plain() };
        let (calls, manner) = if family.has_calls() {
            (None, calls::manner_with(template, harmony::RECIPIENT))
        } else {
            let calls = Calls::of(template, &trial, family.closing()).map(Arc::new);
            (calls.clone(), calls.map(|calls| calls.manner))
        };
        Self { family, calls, manner, is_told_of_tools: calls::are_offered(template) }
    }

    /// Everything is the answer: for models without a template.
    pub fn plain() -> Self {
        Self { family: Arc::new(plain::Plain), calls: None, manner: None, is_told_of_tools: false }
    }

    /// The family's name.
    pub fn family(&self) -> &'static str {
        self.family.name()
    }

    /// Whether thoughts are told apart.
    pub fn has_reasoning(&self) -> bool {
        self.family.name() != plain::NAME
    }

    /// The kind of syntax in which tools are called; `None` where the template knows none.
    pub fn calls(&self) -> Option<&'static str> {
        let own = self.calls.as_ref().map(|calls| calls.kind());
        own.or_else(|| self.manner.map(|_| self.family.name()))
    }

    /// How the template wants calls of earlier turns.
    pub fn manner(&self) -> Manner {
        self.manner.unwrap_or_default()
    }

    /// Whether the template tells the model which tools there are.
    pub fn is_told_of_tools(&self) -> bool {
        self.is_told_of_tools
    }

    /// The same for a model that knows no calls and is made to write one as a JSON object with `name` and `arguments`.
    #[must_use]
    pub fn with_forced_calls(&self) -> Self {
        Self { calls: Some(Arc::new(Calls::bare())), ..self.clone() }
    }

    /// A grammar in llguidance's kind of Lark for answers that call a tool, or several where there may be several. It begins
    /// behind the thoughts, unless it [covers](Self::rules_thoughts) them. `None` where the template knows no calls.
    pub fn grammar_of_calls(&self, offer: &Offer, tokenizer: &Tokenizer) -> Option<String> {
        match &self.calls {
            Some(calls) => Some(calls.grammar(offer, tokenizer)),
            None => self.manner.and_then(|_| self.family.grammar_of_calls(offer, tokenizer)),
        }
    }

    /// Whether that grammar says where thoughts stand, too: it begins with the answer then.
    pub fn rules_thoughts(&self) -> bool {
        self.calls.is_none() && self.family.has_calls()
    }

    /// The same of a single call, from behind the mark that begins it. `None` where nothing announces a call.
    pub fn grammar_of_a_call(&self, offer: &Offer, tokenizer: &Tokenizer) -> Option<String> {
        self.calls.as_ref()?.grammar_of_one(offer, tokenizer)
    }

    /// Begins to read what a model generates after `prompt`, up to one of `stops`. Calls are told apart where tools are on
    /// offer: a model that was told of none speaks of calls at most.
    pub fn reader(&self, prompt: &str, stops: StopScanner, offer: Option<Arc<Offer>>) -> Reader {
        let calls =
            self.calls.clone().zip(offer.clone()).map(|(calls, offer)| calls::Splitter::new(calls, offer));
        let splitter = self.family.splitter(prompt, offer.as_ref().filter(|_| self.manner.is_some()));
        Reader::new(self.family.clone(), splitter, calls, stops)
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
