//! Harmony, the channels of gpt-oss: `<|start|>assistant<|channel|>analysis<|message|>…<|end|>`, and so on.
//!
//! `analysis` is thought, `final` is said; so is `commentary`, unless it goes to a tool: ` to=functions.name` in a head makes
//! the message a call of it, where tools are on offer. Else what is meant for a tool counts as thought.

use super::calls::{Fed, Rules, Scanner};
use super::trial::{ANSWER, Trial};
use super::{Family, Offer, Piece, Split, Stage, Tool, begun};
use crate::tokenizer::Tokenizer;
use std::sync::Arc;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const MESSAGE: &str = "<|message|>";
const MARKS: &[&str] = &[START, CHANNEL, CONSTRAIN, MESSAGE, "<|end|>", "<|return|>", "<|call|>"];

/// Before the name of a tool.
pub(super) const RECIPIENT: &str = "to=functions.";

/// A longer head is none.
const LONGEST_HEAD: usize = 256;

#[derive(Debug)]
struct Harmony;

pub(super) fn detect(trial: &Trial) -> Option<Arc<dyn Family>> {
    let is_final = |text: &String| {
        let head = text.find(ANSWER).and_then(|at| text[..at].strip_suffix(MESSAGE));
        head.and_then(|head| head.rsplit_once(CHANNEL)).is_some_and(|(_, name)| name.trim() == "final")
    };
    let mut texts = trial.thought.iter().chain([&trial.answered]);
    texts.any(is_final).then(|| Arc::new(Harmony) as Arc<dyn Family>)
}

/// A grammar in Lark of an answer that calls one of these tools, the thoughts before it included: both are messages with
/// heads. A message to a tool ends the turn, so there is one call.
fn grammar(offer: &Offer, tokenizer: &Tokenizer) -> String {
    let mut rules = Rules::new(tokenizer);
    let mut call = |tool: &Tool| {
        let head = format!("commentary {RECIPIENT}{} {CONSTRAIN}json{MESSAGE}", tool.name);
        format!("{} {}", rules.literal(&head), rules.json(&tool.parameters))
    };
    let calls: Vec<String> = offer.tools.iter().map(&mut call).collect();
    let calls = rules.rule(&calls.join(" | "));
    let [head, next] = [format!("analysis{MESSAGE}"), format!("{START}assistant{CHANNEL}")];
    let thought = rules.free_text("<|end|>");
    let thought = format!("{} {thought} {}", rules.literal(&head), rules.literal(&next));
    let channel = rules.literal(CHANNEL);
    rules.grammar(&format!("{channel} ({thought})? {calls}"))
}

impl Family for Harmony {
    fn name(&self) -> &'static str {
        "harmony"
    }

    fn has_calls(&self) -> bool {
        true
    }

    fn grammar_of_calls(&self, offer: &Offer, tokenizer: &Tokenizer) -> Option<String> {
        Some(grammar(offer, tokenizer))
    }

    fn splitter(&self, prompt: &str, offer: Option<&Arc<Offer>>) -> Box<dyn Split> {
        let mut splitter = Splitter::new(offer.cloned());
        // The prompt has begun the first message.
        if let Some(at) = prompt.rfind(START) {
            splitter.push(&prompt[at..], &mut vec![]);
        }
        splitter.is_first = true;
        Box::new(splitter)
    }

    /// Vocabularies may have several tokens for one mark, told apart by a number.
    fn mark<'t>(&'t self, control: &'t str) -> Option<&'t str> {
        let name =
            control.strip_prefix("<|")?.strip_suffix("|>")?.trim_end_matches(|c: char| c.is_ascii_digit());
        MARKS.iter().copied().find(|mark| mark[2..mark.len() - 2] == *name)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Reasoning,
    Answer,
}

enum Place {
    /// Between `<|start|>` or `<|channel|>` and `<|message|>`: what has come of it, `<|channel|>` included.
    Head(String),
    Text(Kind),
    /// The arguments of a call: the tool's name until they have begun, and where in them it is.
    Call(Option<String>, Scanner),
    /// After the end of a message.
    Gap,
}

struct Splitter {
    place: Place,
    held: String,     // may be the beginning of a mark
    is_first: bool,   // nothing was generated yet but what is in the head
    shown: [bool; 2], // whether there was text of a kind
    parts: bool,      // a second message of a kind has begun and has no text yet
    offer: Option<Arc<Offer>>,
    called: bool,
}

impl Splitter {
    fn new(offer: Option<Arc<Offer>>) -> Self {
        Self {
            place: Place::Head(String::new()),
            held: String::new(),
            is_first: false,
            shown: [false; 2],
            parts: false,
            offer,
            called: false,
        }
    }

    fn mark(&mut self, mark: &str) {
        let place = std::mem::replace(&mut self.place, Place::Gap);
        self.is_first = false;
        self.place = match (mark, place) {
            (START, _) => Place::Head(String::new()),
            (CHANNEL, Place::Head(head)) => Place::Head(head + CHANNEL),
            (CHANNEL, _) => Place::Head(CHANNEL.to_owned()),
            (CONSTRAIN, Place::Head(head)) => Place::Head(head + " "),
            (MESSAGE, Place::Head(head)) => match self.tool(&head) {
                Some(name) => Place::Call(Some(name), Scanner::new()),
                None => self.begin(kind(&head)),
            },
            (CONSTRAIN | MESSAGE, place @ (Place::Text(_) | Place::Call(..))) => place,
            (MESSAGE, Place::Gap) => self.begin(Kind::Answer),
            _ => Place::Gap,
        };
    }

    /// The tool that a message with this head goes to.
    fn tool(&self, head: &str) -> Option<String> {
        let offer = self.offer.as_ref()?;
        let (_, recipient) = head.split_once(" to=").or_else(|| head.split_once("to="))?;
        let recipient = recipient.split(|c: char| c.is_whitespace() || c == '<').next()?;
        let own = recipient.strip_prefix("functions.").filter(|name| !name.is_empty());
        own.or_else(|| offer.tool(recipient).map(|_| recipient)).map(str::to_owned)
    }

    /// Arguments of a call: JSON, and what stands where it breaks off is said.
    fn argue(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        let Place::Call(name, scanner) = &mut self.place else { return };
        let mut json = String::new();
        for (at, c) in text.char_indices() {
            if name.is_some() && c.is_whitespace() {
                continue;
            }
            let fed = if name.is_none() || c == '{' { scanner.feed(c, &mut json) } else { Fed::Wrong };
            if let Some(name) = name.take_if(|_| c == '{') {
                pieces.push(Piece::Call(name));
            }
            match fed {
                Fed::More => {}
                Fed::Last | Fed::Over | Fed::Wrong => {
                    self.called |= fed == Fed::Last;
                    let rest = if fed == Fed::Last { &text[at + c.len_utf8()..] } else { &text[at..] };
                    pieces.extend((!json.is_empty()).then_some(Piece::Arguments(json)));
                    self.place = Place::Gap;
                    return self.text(rest, pieces);
                }
            }
        }
        pieces.extend((!json.is_empty()).then_some(Piece::Arguments(json)));
    }

    fn begin(&mut self, kind: Kind) -> Place {
        self.parts = self.shown[kind as usize];
        Place::Text(kind)
    }

    fn text(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        match &mut self.place {
            Place::Text(kind) => {
                let kind = *kind;
                self.show(kind, text, pieces);
            }
            Place::Call(..) => self.argue(text, pieces),
            Place::Gap => {
                let text = text.trim_start();
                if !text.is_empty() {
                    self.place = self.begin(Kind::Answer);
                    self.show(Kind::Answer, text, pieces);
                }
            }
            Place::Head(head) => {
                head.push_str(text);
                if self.is_first {
                    self.speak_without_head(pieces);
                } else if head.len() > LONGEST_HEAD {
                    let text = std::mem::take(head);
                    self.place = self.begin(Kind::Answer);
                    self.show(Kind::Answer, &text, pieces);
                }
            }
        }
    }

    /// Words right after the prompt's `<|start|>assistant` are the answer of a model that knows no channels, unless
    /// they name who is spoken to.
    fn speak_without_head(&mut self, pieces: &mut Vec<Piece>) {
        const TO: &str = " to=";
        let words = self.first_words();
        if words.is_empty() || TO.starts_with(&words) {
            return;
        }
        self.is_first = false;
        if !words.starts_with(TO) {
            self.place = self.begin(Kind::Answer);
            self.show(Kind::Answer, &words, pieces);
        }
    }

    /// What was generated of the first head.
    fn first_words(&self) -> String {
        let Place::Head(head) = &self.place else { return String::new() };
        head.split_once("assistant").map_or(String::new(), |(_, words)| words.to_owned())
    }

    fn show(&mut self, kind: Kind, text: &str, pieces: &mut Vec<Piece>) {
        if text.is_empty() {
            return;
        }
        let parting = if std::mem::take(&mut self.parts) { "\n\n" } else { "" };
        let text = format!("{parting}{text}");
        self.shown[kind as usize] = true;
        pieces.push(match kind {
            Kind::Reasoning => Piece::Reasoning(text),
            Kind::Answer => Piece::Answer(text),
        });
    }
}

/// What a message with this head is.
fn kind(head: &str) -> Kind {
    let Some((role, channel)) = head.split_once(CHANNEL) else { return Kind::Answer };
    let is_for_a_tool = role.contains(" to=") || channel.contains(" to=");
    match channel.split_whitespace().next().unwrap_or_default() {
        "analysis" => Kind::Reasoning,
        "commentary" if is_for_a_tool => Kind::Reasoning,
        _ => Kind::Answer,
    }
}

impl Split for Splitter {
    fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        self.held.push_str(text);
        loop {
            let found = MARKS.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min();
            let clear = found.map_or_else(|| self.held.len() - begun(&self.held, MARKS), |(at, _)| at);
            let text: String = self.held.drain(..clear).collect();
            self.text(&text, pieces);
            let Some((_, mark)) = found else { return };
            self.held.drain(..mark.len());
            self.mark(mark);
        }
    }

    fn stage(&self) -> Stage<'_> {
        let opening = match &self.place {
            Place::Head(_) if self.is_first && self.first_words().trim().is_empty() => CHANNEL,
            Place::Gap => START,
            Place::Head(_) | Place::Text(Kind::Reasoning) | Place::Call(..) => return Stage::Thought,
            Place::Text(Kind::Answer) => return Stage::Answer,
        };
        let missing = opening.strip_prefix(&*self.held).unwrap_or(opening);
        Stage::Undecided { opening: missing, has_begun: missing.len() < opening.len() }
    }

    fn finish(&mut self, pieces: &mut Vec<Piece>) {
        let rest = std::mem::take(&mut self.held);
        match self.place {
            Place::Text(_) | Place::Call(..) => self.text(&rest, pieces),
            Place::Head(_) if self.is_first => {
                let words = self.first_words() + &rest;
                self.show(Kind::Answer, &words, pieces);
            }
            // The head of a message that never came.
            Place::Head(_) | Place::Gap => {}
        }
    }

    fn is_over(&self) -> bool {
        self.called && self.offer.as_ref().is_some_and(|offer| !offer.several)
    }
}
