//! Calls that look like a program's: `[name(key='text', …)]` (LFM2), `call:name{key:<|"|>text<|"|>,…}` (Gemma 4).

use super::forced::parameter;
use super::json::Fed;
use super::literal::{Literal, Notation};
use super::{Body, Kind, Offer, Recognized, Rules, Step, Tool, Written, is_of_a_name, say};
use crate::dialogue::Piece;
use serde_json::Value;
use std::mem::take;
use std::sync::Arc;

const LONGEST_NAME: usize = 128;
/// Longer ones are no quotes.
const LONGEST_QUOTE: usize = 16;

#[derive(Debug)]
struct Keyed {
    notation: Notation,
    /// Between two arguments.
    comma: String,
}

pub(super) fn detect(written: &Written) -> Option<Recognized> {
    let text = &*written.text;
    let [(name, arguments), (other, _)] = written.calls();
    let mut entries = arguments.as_object()?.iter();
    let ((one, value), (two, _)) = (entries.next()?, entries.next()?);
    let begin = text.find(name)?;
    let (head, rest) = text[begin + name.len()..].split_once(&**one)?;
    let (before, behind) = rest.split_once(value.as_str()?)?;
    let open = only(head)?;
    let close = match open {
        '(' => ')',
        '{' => '}',
        _ => return None,
    };
    let assign = before.chars().next().filter(|c| matches!(c, ':' | '='))?;
    let quote = before[1..].trim();
    if quote.is_empty() || quote.len() > LONGEST_QUOTE {
        return None;
    }
    let comma = behind.strip_prefix(quote)?.split_once(&**two)?.0;
    let notation = Notation { open, close, assign, quote: quote.to_owned() };
    let end = |name: &str, from: usize| {
        let start = from + text[from..].find(name)?;
        let behind = start + name.len();
        let inner = text[behind..].strip_prefix(open)?;
        Some((start, behind + open.len_utf8() + length(&notation, inner)?))
    };
    let first = end(name, 0)?;
    let places = [Some(first), end(other, first.1)].into_iter().flatten().collect();
    Some((Arc::new(Keyed { notation: notation.clone(), comma: comma.to_owned() }), places))
}

/// The only character of a text.
fn only(text: &str) -> Option<char> {
    let mut all = text.chars();
    all.next().filter(|_| all.next().is_none())
}

/// How long the arguments are that a text begins with, with the sign that closes them.
fn length(notation: &Notation, text: &str) -> Option<usize> {
    let mut json = String::new();
    let mut literal = Literal::new(notation.clone(), &mut json);
    for (at, c) in text.char_indices() {
        match literal.feed(c, &mut json) {
            Fed::More => {}
            Fed::Last => return Some(at + c.len_utf8()),
            Fed::Over | Fed::Wrong => return None,
        }
    }
    None
}

impl Kind for Keyed {
    fn name(&self) -> &'static str {
        "keyed"
    }

    fn begins(&self, c: char) -> bool {
        c.is_alphabetic() || c == '_'
    }

    fn rule(&self, tool: &Tool, rules: &mut Rules<'_>) -> String {
        let required: Vec<&str> =
            tool.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let comma = rules.literal(&self.comma);
        // From the last parameter on: what may follow where there was none before, and where there was one.
        let (mut first, mut next) = (rules.literal(""), rules.literal(""));
        for (key, schema) in tool.parameters["properties"].as_object().into_iter().flatten().rev() {
            let one = self.argument(tool, key, schema, rules);
            let (others, is_required) = (next.clone(), required.contains(&&**key));
            next = match is_required {
                true => rules.rule(&format!("{comma} {one} {others}")),
                false => rules.rule(&format!("({comma} {one})? {others}")),
            };
            first = match is_required {
                true => rules.rule(&format!("{one} {others}")),
                false => rules.rule(&format!("{one} {others} | {first}")),
            };
        }
        let Notation { open, close, .. } = self.notation;
        let [begin, end] = [format!("{}{open}", tool.name), close.to_string()];
        rules.rule(&format!("{} {first} {}", rules.literal(&begin), rules.literal(&end)))
    }

    fn body(&self, _: &Arc<Offer>, _: bool) -> Box<dyn Body> {
        Box::new(Reading { notation: self.notation.clone(), place: Place::Name(String::new()) })
    }

    fn marks(&self) -> Vec<&str> {
        vec![&self.notation.quote]
    }
}

impl Keyed {
    /// A rule of an argument. A text that no quote of one character surrounds is free, as far as the schema leaves it so.
    fn argument(&self, tool: &Tool, key: &str, schema: &Value, rules: &mut Rules<'_>) -> String {
        let begin = format!("{key}{}", self.notation.assign);
        let quote = &*self.notation.quote;
        let says_nothing = |schema: &Value| {
            let mut keys = schema.as_object().into_iter().flatten().map(|(key, _)| &**key);
            keys.all(|key| matches!(key, "type" | "description" | "title" | "default" | "examples"))
        };
        if quote.len() > 1 && tool.is_text(key) && says_nothing(schema) {
            let text = rules.free_text(quote);
            return rules.rule(&format!("{} {text}", rules.literal(&(begin + quote))));
        }
        let value = rules.json(&parameter(tool, schema));
        rules.rule(&format!("{} {value}", rules.literal(&begin)))
    }
}

struct Reading {
    notation: Notation,
    place: Place,
}

enum Place {
    Name(String),
    Arguments(Literal),
}

impl Body for Reading {
    fn push(&mut self, c: char, pieces: &mut Vec<Piece>) -> Step {
        let mut text = String::new();
        match &mut self.place {
            Place::Name(name) if name.is_empty() && c.is_whitespace() => Step::More,
            Place::Name(name) if is_of_a_name(c) && name.len() < LONGEST_NAME => {
                name.push(c);
                Step::More
            }
            Place::Name(name) if c == self.notation.open && !name.is_empty() => {
                pieces.push(Piece::Call(take(name)));
                self.place = Place::Arguments(Literal::new(self.notation.clone(), &mut text));
                say(pieces, Piece::Arguments(text));
                Step::More
            }
            Place::Name(_) => Step::Failed,
            Place::Arguments(literal) => {
                let fed = literal.feed(c, &mut text);
                say(pieces, Piece::Arguments(text));
                match fed {
                    Fed::More => Step::More,
                    Fed::Last => Step::Done,
                    Fed::Over | Fed::Wrong => Step::Failed,
                }
            }
        }
    }
}
