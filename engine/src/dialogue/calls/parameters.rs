//! Calls whose arguments are written one by one, texts without quotes: `<function=name><parameter=key>value</parameter>
//! </function>` (Qwen3-Coder, Nemotron, Seed, MiniMax M2), `name<arg_key>key</arg_key><arg_value>value</arg_value>` (GLM),
//! with a word that says whether a value is a text (DeepSeek V3.2).
//!
//! The JSON of the arguments is ours: what the tool's schema calls a text is one, everything else is JSON if it can be.

use super::forced::parameter;
use super::marks::{Found, Mark};
use super::{Body, Kind, Offer, Recognized, Rules, Step, Tool, Written, common_end, is_of_a_name, say};
use crate::dialogue::Piece;
use serde_json::Value;
use std::sync::Arc;

const LONGEST_WORD: usize = 256;

/// What stands between the words of a call, as the template wrote it.
#[derive(Clone, Debug)]
struct Layout {
    /// From the name to the first key, and from it to the end where there is none.
    first: String,
    none: String,
    /// Between a key and its value, where this is a text and where it is something else.
    text: String,
    other: String,
    /// From a value to the next key, and to the end.
    next: String,
    last: String,
}

pub(super) fn detect(written: &Written) -> Option<Recognized> {
    let text = &*written.text;
    let [(name, arguments), (other_name, _)] = written.calls();
    let mut entries = arguments.as_object()?.iter();
    let ((one, value), (two, _)) = (entries.next()?, entries.next()?);
    let behind = |word: &str, from: usize| Some(from + text.get(from..)?.find(word)? + word.len());
    let begin = text.find(name)?;
    let name_end = begin + name.len();
    let (one_end, value_end) = (behind(one, name_end)?, behind(value.as_str()?, name_end)?);
    let two_end = behind(two, value_end)?;
    let (object, object_end) = braces(text, two_end)?;
    let (first, between) = (&text[name_end..one_end - one.len()], &text[value_end..two_end - two.len()]);
    // A value's closing tag, then what opens a key.
    let key_open = common_end(between, first);
    let value_close = between[..between.len() - key_open.len()].trim_end();
    let rest = text[object_end..].strip_prefix(value_close)?;
    let close = Mark::new(rest).words().first()?.clone();
    let close_end = object_end + value_close.len() + rest.find(&*close)? + close.len();
    let mut places = vec![(begin, close_end)];
    if let Some(at) = text[close_end..].find(other_name) {
        places.push((close_end + at, behind(&close, close_end + at)?));
    }
    let last = text[object_end..close_end].to_owned();
    let none = first[..first.len() - key_open.len()].to_owned() + &last[value_close.len()..];
    let layout = Layout {
        first: first.to_owned(),
        none,
        text: text[one_end..value_end - value.as_str()?.len()].to_owned(),
        other: text[two_end..object].to_owned(),
        next: between.to_owned(),
        last,
    };
    let all = [&layout.first, &layout.none, &layout.text, &layout.next, &layout.last, &layout.other];
    let is_clear = all.iter().all(|text| !text.trim().is_empty()) && !value_close.trim().is_empty();
    is_clear.then(|| (Arc::new(layout) as Arc<dyn Kind>, places))
}

/// The first braces behind `from` that close again.
fn braces(text: &str, from: usize) -> Option<(usize, usize)> {
    let start = from + text[from..].find('{')?;
    let mut depth = 0;
    for (at, c) in text[start..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some((start, start + at + 1));
        }
    }
    None
}

impl Kind for Layout {
    fn name(&self) -> &'static str {
        "parameters"
    }

    fn rule(&self, tool: &Tool, rules: &mut Rules<'_>) -> String {
        let key_open = common_end(&self.next, &self.first);
        let value_close = self.next[..self.next.len() - key_open.len()].trim_end();
        let white = &self.next[value_close.len()..self.next.len() - key_open.len()];
        let required: Vec<&str> =
            tool.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let name_close = &self.first[..self.first.len() - key_open.len()];
        let mut rule = rules.literal(&(tool.name.clone() + name_close));
        for (key, schema) in tool.parameters["properties"].as_object().into_iter().flatten() {
            let is_text = tool.is_text(key);
            let begin = format!("{key_open}{key}{}", if is_text { &self.text } else { &self.other });
            let values = match &schema["enum"] {
                Value::Array(values) => values.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
                _ => schema["const"].as_str().map(|value| vec![value]),
            };
            let value = match values {
                Some(values) if is_text => {
                    let values = values.iter().map(|value| rules.literal(value));
                    let values = values.collect::<Vec<_>>().join(" | ");
                    format!("({values}) {}", rules.literal(value_close))
                }
                _ if is_text => rules.text(value_close, value_close),
                _ => format!("{} {}", rules.json(&parameter(tool, schema)), rules.literal(value_close)),
            };
            let value = rules.rule(&format!("{} {value} {}", rules.literal(&begin), rules.literal(white)));
            rule += &format!(" {value}{}", if required.contains(&&**key) { "" } else { "?" });
        }
        let close = &self.last.trim_start()[value_close.trim_start().len()..];
        // The white space before it has come with the latest value, or with the name.
        rule += &format!(" {}", rules.literal(close.strip_prefix(white).unwrap_or(close)));
        rules.rule(&rule)
    }

    fn body(&self, offer: &Arc<Offer>, _: bool) -> Box<dyn Body> {
        let mark = |text: &str| Mark::new(text);
        let marks = Marks {
            first: mark(&self.first),
            none: mark(&self.none),
            text: mark(&self.text),
            other: mark(&self.other),
            next: mark(&self.next),
            last: mark(&self.last),
        };
        Box::new(Reading {
            before: self.text[self.text.trim_end().len()..].to_owned(),
            behind: self.next[..self.next.len() - self.next.trim_start().len()].to_owned(),
            says_kind: self.text.trim() != self.other.trim(),
            marks,
            offer: offer.clone(),
            name: String::new(),
            place: Place::Name,
            held: String::new(),
            searched: 0,
            has_some: false,
        })
    }

    fn marks(&self) -> Vec<&str> {
        vec![&self.first, &self.none, &self.text, &self.other, &self.next, &self.last]
    }
}

struct Marks {
    first: Mark,
    none: Mark,
    text: Mark,
    other: Mark,
    next: Mark,
    last: Mark,
}

struct Reading {
    marks: Marks,
    /// White space around a value that belongs to the tags.
    before: String,
    behind: String,
    /// Whether what stands before a value says if it is a text.
    says_kind: bool,
    offer: Arc<Offer>,
    name: String,
    place: Place,
    held: String,
    /// Up to where no mark begins in what is held.
    searched: usize,
    /// Whether an argument was told.
    has_some: bool,
}

enum Place {
    Name,
    /// Between the name and the first key.
    Head,
    Key,
    /// Within the value of a key.
    Value {
        key: String,
        is_text: bool,
        begun: bool,
    },
}

impl Body for Reading {
    fn push(&mut self, c: char, pieces: &mut Vec<Piece>) -> Step {
        match &self.place {
            Place::Name if self.name.is_empty() && c.is_whitespace() => Step::More,
            Place::Name if is_of_a_name(c) && self.name.len() < LONGEST_WORD => {
                self.name.push(c);
                Step::More
            }
            Place::Name if self.name.is_empty() => Step::Failed,
            Place::Name => {
                self.place = Place::Head;
                self.push(c, pieces)
            }
            Place::Head => {
                self.held.push(c);
                self.head(pieces)
            }
            Place::Key => {
                self.held.push(c);
                self.key(pieces)
            }
            Place::Value { .. } => {
                self.held.push(c);
                self.value(pieces)
            }
        }
    }
}

impl Reading {
    fn head(&mut self, pieces: &mut Vec<Piece>) -> Step {
        let held = self.held.trim_start();
        match (self.marks.first.at(held), self.marks.none.at(held)) {
            (Found::Whole(_), _) => {
                pieces.push(Piece::Call(self.name.clone()));
                self.go(Place::Key)
            }
            (_, Found::Whole(_)) => {
                pieces.push(Piece::Call(self.name.clone()));
                self.end(pieces)
            }
            (Found::No, Found::No) if !held.is_empty() => Step::Failed,
            _ if self.held.len() < LONGEST_WORD => Step::More,
            _ => Step::Failed,
        }
    }

    fn go(&mut self, place: Place) -> Step {
        (self.place, self.held, self.searched) = (place, String::new(), 0);
        Step::More
    }

    fn end(&mut self, pieces: &mut Vec<Piece>) -> Step {
        say(pieces, Piece::Arguments(if self.has_some { "}" } else { "{}" }.to_owned()));
        Step::Done
    }

    fn key(&mut self, pieces: &mut Vec<Piece>) -> Step {
        let is_text = match self.find(|marks| &marks.text, |marks| &marks.other) {
            Some((at, Found::Whole(_), _)) => Some((at, self.says_kind || self.knows_text(&self.held[..at]))),
            Some((at, Found::No, Found::Whole(_))) => Some((at, false)),
            _ => None,
        };
        let Some((at, is_text)) = is_text else {
            return if self.held.len() < LONGEST_WORD { Step::More } else { Step::Failed };
        };
        let key = self.held[..at].trim().to_owned();
        let (comma, quote) = (if self.has_some { "," } else { "{" }, if is_text { "\"" } else { "" });
        say(pieces, Piece::Arguments(format!("{comma}{}:{quote}", Value::from(&*key))));
        self.has_some = true;
        self.go(Place::Value { key, is_text, begun: false })
    }

    fn knows_text(&self, key: &str) -> bool {
        self.offer.tool(&self.name).is_some_and(|tool| tool.is_text(key.trim()))
    }

    /// Where in what is held the first of two marks begins or may begin; what each is there.
    fn find(
        &mut self,
        one: impl Fn(&Marks) -> &Mark,
        other: impl Fn(&Marks) -> &Mark,
    ) -> Option<(usize, Found, Found)> {
        let (one, other) = (one(&self.marks), other(&self.marks));
        let places = self.held[self.searched..].char_indices().filter(|(_, c)| !c.is_whitespace());
        let at = |(at, _): (usize, char)| {
            let text = &self.held[self.searched + at..];
            (self.searched + at, one.at(text), other.at(text))
        };
        let found = places.map(at).find(|(_, one, other)| (one, other) != (&Found::No, &Found::No));
        self.searched = found.map_or(self.held.len(), |(at, ..)| at);
        found
    }

    fn value(&mut self, pieces: &mut Vec<Piece>) -> Step {
        let Place::Value { key, is_text, begun } = &mut self.place else { return Step::Failed };
        if !*begun {
            if self.held != self.before && self.before.starts_with(&*self.held) {
                return Step::More;
            }
            *begun = true;
            if let Some(rest) = self.held.strip_prefix(&*self.before) {
                self.held = rest.to_owned();
            }
        }
        let (key, is_text) = (key.clone(), *is_text);
        match self.find(|marks| &marks.next, |marks| &marks.last) {
            Some((at, Found::Whole(_), _)) => {
                self.tell(&key, is_text, at, pieces);
                self.go(Place::Key)
            }
            Some((at, _, Found::Whole(_))) => {
                self.tell(&key, is_text, at, pieces);
                self.end(pieces)
            }
            // Of a text what is clear is told.
            found if is_text => {
                let clear = &self.held[..found.map_or(self.held.len(), |(at, ..)| at)];
                let white = clear.chars().rev().take(self.behind.len()).take_while(|c| c.is_whitespace());
                let clear = clear.len() - white.map(char::len_utf8).sum::<usize>();
                let text: String = self.held.drain(..clear).collect();
                self.searched -= clear;
                say(pieces, Piece::Arguments(escaped(&text)));
                Step::More
            }
            _ => Step::More,
        }
    }

    /// The rest of a value, which ends at `at`.
    fn tell(&mut self, key: &str, is_text: bool, at: usize, pieces: &mut Vec<Piece>) {
        let text = &self.held[..at];
        let text = text.strip_suffix(&*self.behind).unwrap_or(text);
        let told = if is_text {
            escaped(text) + "\""
        } else if let Some(tool) = self.offer.tool(&self.name).filter(|_| !self.says_kind) {
            tool.value(key, text).to_string()
        } else {
            serde_json::from_str(text.trim()).unwrap_or_else(|_| Value::from(text)).to_string()
        };
        say(pieces, Piece::Arguments(told));
    }
}

/// As it stands within the quotes of a JSON text.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
