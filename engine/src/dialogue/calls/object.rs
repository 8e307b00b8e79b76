//! Calls that are JSON objects: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` (Qwen, Granite, Hermes), the list
//! `[TOOL_CALLS][{…}]` (Mistral), `{"name": …, "parameters": {…}}` without anything around it (Llama 3).
//!
//! What the keys are called is the template's. A call is told once its name and the beginning of its arguments are known:
//! until then it may be no call at all.

use super::json::{Fed, Scanner};
use super::{Body, Kind, Offer, Recognized, Rules, Step, Tool, Written, say};
use crate::dialogue::Piece;
use serde_json::{Map, Value};
use std::mem::{replace, take};
use std::sync::Arc;

/// Longer keys and names are none.
const LONGEST_WORD: usize = 256;
/// Arguments before the name are not waited for longer.
const LONGEST_WAIT: usize = 1 << 14;

/// What the two keys are called.
#[derive(Clone, Debug)]
struct Object {
    name: String,
    arguments: String,
}

pub(super) fn detect(written: &Written) -> Option<Recognized> {
    let [call, other] = written.calls();
    let mut keys = None;
    let mut places = vec![];
    for (start, end, value) in written.objects() {
        let Value::Object(object) = value else { continue };
        let wanted = if places.is_empty() { &call } else { &other };
        let key_of =
            |wanted: &Value| object.iter().find(|(_, value)| *value == wanted).map(|(key, _)| key.clone());
        if let Some((name, arguments)) = key_of(&Value::from(wanted.0)).zip(key_of(&wanted.1)) {
            keys.get_or_insert(Object { name, arguments });
            places.push((start, end));
        }
    }
    Some((Arc::new(keys?) as Arc<dyn Kind>, places))
}

/// With the most common keys.
pub(super) fn plain() -> Arc<dyn Kind> {
    Arc::new(Object { name: "name".to_owned(), arguments: "arguments".to_owned() })
}

impl Kind for Object {
    fn name(&self) -> &'static str {
        "object"
    }

    fn rule(&self, tool: &Tool, rules: &mut Rules<'_>) -> String {
        let [name, key, value] = [&self.name, &self.arguments, &tool.name].map(|text| Value::from(&**text));
        let arguments = rules.json(&tool.parameters);
        let begin = rules.literal(&format!("{{{name}: {value}, {key}: "));
        rules.rule(&format!("{begin} {arguments} \"}}\""))
    }

    fn body(&self, offer: &Arc<Offer>, is_bare: bool) -> Box<dyn Body> {
        Box::new(Reading {
            keys: self.clone(),
            known: is_bare.then(|| offer.clone()),
            place: Place::Start,
            name: None,
            arguments: Arguments::None,
            has_arguments: false,
        })
    }
}

struct Reading {
    keys: Object,
    /// Where nothing but the name tells a call from other JSON.
    known: Option<Arc<Offer>>,
    place: Place,
    name: Option<String>,
    arguments: Arguments,
    /// Others that follow are none.
    has_arguments: bool,
}

enum Arguments {
    None,
    /// They came before the name.
    Held(String),
    Told,
}

enum Place {
    Start,
    BeforeKey {
        may_close: bool,
    },
    Key(Scanner, String),
    BehindKey(String),
    BeforeValue(String),
    /// What has come of it.
    Value(String, Scanner, String),
    Arguments(Scanner),
    BehindValue,
}

impl Body for Reading {
    fn push(&mut self, c: char, pieces: &mut Vec<Piece>) -> Step {
        let is_space = c.is_ascii_whitespace();
        match &mut self.place {
            Place::Key(scanner, text) => match scanner.feed(c, text) {
                Fed::More if text.len() < LONGEST_WORD => Step::More,
                Fed::Last => match serde_json::from_str(text) {
                    Ok(key) => self.go(Place::BehindKey(key)),
                    Err(_) => Step::Failed,
                },
                _ => Step::Failed,
            },
            Place::Value(_, scanner, text) => match scanner.feed(c, text) {
                Fed::More if text.len() < LONGEST_WAIT => Step::More,
                Fed::Last => self.take_value(pieces),
                Fed::Over => match self.take_value(pieces) {
                    Step::More => self.push(c, pieces),
                    other => other,
                },
                _ => Step::Failed,
            },
            Place::Arguments(scanner) => {
                let mut text = String::new();
                match scanner.feed(c, &mut text) {
                    Fed::More => self.argue(&text, pieces),
                    Fed::Last => {
                        self.place = Place::BehindValue;
                        self.argue(&text, pieces)
                    }
                    Fed::Over | Fed::Wrong => Step::Failed,
                }
            }
            _ if is_space => Step::More,
            Place::Start if c == '{' => self.go(Place::BeforeKey { may_close: true }),
            Place::BeforeKey { .. } if c == '"' => {
                let (mut scanner, mut text) = (Scanner::new(), String::new());
                scanner.feed(c, &mut text);
                self.go(Place::Key(scanner, text))
            }
            Place::BehindKey(key) if c == ':' => {
                let key = take(key);
                self.go(Place::BeforeValue(key))
            }
            Place::BeforeValue(key) if c == '{' && *key == self.keys.arguments && !self.has_arguments => {
                self.has_arguments = true;
                self.place = Place::Arguments(Scanner::new());
                self.push(c, pieces)
            }
            Place::BeforeValue(key) => {
                self.place = Place::Value(take(key), Scanner::new(), String::new());
                self.push(c, pieces)
            }
            Place::BehindValue if c == ',' => self.go(Place::BeforeKey { may_close: false }),
            Place::BeforeKey { may_close: true } | Place::BehindValue if c == '}' => self.close(pieces),
            _ => Step::Failed,
        }
    }
}

impl Reading {
    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::More
    }

    /// A value other than arguments that are an object.
    fn take_value(&mut self, pieces: &mut Vec<Piece>) -> Step {
        let Place::Value(key, _, text) = replace(&mut self.place, Place::BehindValue) else {
            return Step::Failed;
        };
        if key == self.keys.name {
            let Ok(name) = serde_json::from_str::<String>(&text) else { return Step::Failed };
            let is_known = self.known.as_ref().is_none_or(|offer| offer.tool(&name).is_some());
            if !is_known || name.is_empty() || self.name.is_some() {
                return Step::Failed;
            }
            self.name = Some(name);
            return match replace(&mut self.arguments, Arguments::None) {
                Arguments::Held(text) => self.argue(&text, pieces),
                _ => Step::More,
            };
        }
        if key == self.keys.arguments && text != "null" && !replace(&mut self.has_arguments, true) {
            // Some write them as a text that is JSON.
            let text = serde_json::from_str::<String>(&text).unwrap_or_default();
            return match serde_json::from_str::<Map<String, Value>>(&text) {
                Ok(_) => self.argue(text.trim(), pieces),
                Err(_) => Step::Failed,
            };
        }
        Step::More
    }

    /// More of the arguments.
    fn argue(&mut self, text: &str, pieces: &mut Vec<Piece>) -> Step {
        match (&mut self.arguments, &self.name) {
            (Arguments::Told, _) => {}
            (Arguments::None, Some(name)) => {
                pieces.push(Piece::Call(name.clone()));
                self.arguments = Arguments::Told;
            }
            (Arguments::None, None) => {
                self.arguments = Arguments::Held(text.to_owned());
                return Step::More;
            }
            (Arguments::Held(held), _) => {
                held.push_str(text);
                return if held.len() < LONGEST_WAIT { Step::More } else { Step::Failed };
            }
        }
        say(pieces, Piece::Arguments(text.to_owned()));
        Step::More
    }

    fn close(&mut self, pieces: &mut Vec<Piece>) -> Step {
        if self.name.is_none() {
            return Step::Failed;
        }
        if let Arguments::None = self.arguments {
            self.argue("{}", pieces);
        }
        Step::Done
    }
}
