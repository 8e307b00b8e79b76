//! Arguments as a programming language writes them, which come character by character and become JSON: keys without quotes,
//! texts in quotes of several kinds, `True` and `None`.
//!
//! What is JSON there is read as such. A word that is nothing else is a text. Within a text a quote that nothing follows
//! which could stand behind a value is a part of it, since models and templates forget to escape it.

use super::is_of_a_name;
use super::json::Fed;
use serde_json::{Number, Value};
use std::mem::take;

/// Deeper values are none.
const DEPTH: usize = 128;
/// Longer keys and words without quotes are none, and more white space ends no text.
const LONGEST_WORD: usize = 256;

/// How arguments are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notation {
    /// Before the first key, and behind the last value.
    pub(super) open: char,
    pub(super) close: char,
    /// Between a key and its value, outside of values.
    pub(super) assign: char,
    /// Around texts. `'` and `"` are quotes in any case.
    pub(super) quote: String,
}

/// Within the arguments of a call.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    notation: Notation,
    open: Vec<Bracket>,
    at: At,
    /// Of a word all, of a text what may end it.
    held: String,
}

/// A bracket that is not closed.
#[derive(Clone, Copy, Debug)]
struct Bracket {
    kind: Kind,
    /// Whether something stands in it.
    has_some: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Call,
    Map,
    List,
}

#[derive(Clone, Debug, PartialEq)]
enum At {
    /// Or the bracket that closes.
    Key,
    BareKey,
    Assign,
    /// Or, in a list, the bracket that closes.
    Value,
    Bare,
    /// The notation's own quote has begun.
    Quote {
        is_key: bool,
    },
    /// A text up to this quote.
    Text {
        quote: Option<char>,
        is_key: bool,
    },
    Escape {
        quote: char,
        is_key: bool,
    },
    Hexadecimal {
        quote: char,
        is_key: bool,
    },
    After,
}

impl Literal {
    /// Behind the sign that opens the arguments, whose JSON begins in `text`.
    pub(super) fn new(notation: Notation, text: &mut String) -> Self {
        text.push('{');
        let call = Bracket { kind: Kind::Call, has_some: false };
        Self { notation, open: vec![call], at: At::Key, held: String::new() }
    }

    /// The next character; what it says is appended to `text` as JSON.
    pub(super) fn feed(&mut self, c: char, text: &mut String) -> Fed {
        match self.at {
            At::Text { quote: Some(quote), is_key } => self.text(c, quote, is_key, text),
            At::Text { quote: None, is_key } => self.own_text(c, is_key, text),
            At::Escape { quote, is_key } => self.escape(c, quote, is_key, text),
            At::Hexadecimal { quote, is_key } => self.hexadecimal(c, quote, is_key, text),
            At::Quote { is_key } => self.open_quote(c, is_key, text),
            At::BareKey => self.bare_key(c, text),
            At::Bare => self.bare(c, text),
            _ if c.is_whitespace() => Fed::More,
            At::Key if self.closes(c) => self.close(text),
            At::Key => self.begin(c, true, text),
            At::Assign if c == self.assign() => {
                text.push(':');
                self.go(At::Value)
            }
            At::Value if self.kind() == Kind::List && c == ']' => self.close(text),
            At::Value => self.begin(c, false, text),
            At::After if c == ',' => self.go(if self.kind() == Kind::List { At::Value } else { At::Key }),
            At::After if self.closes(c) => self.close(text),
            At::Assign | At::After => Fed::Wrong,
        }
    }

    fn go(&mut self, at: At) -> Fed {
        self.at = at;
        Fed::More
    }

    fn kind(&self) -> Kind {
        self.open.last().map_or(Kind::Call, |bracket| bracket.kind)
    }

    fn assign(&self) -> char {
        if self.kind() == Kind::Call { self.notation.assign } else { ':' }
    }

    fn closes(&self, c: char) -> bool {
        c == match self.kind() {
            Kind::Call => self.notation.close,
            Kind::Map => '}',
            Kind::List => ']',
        }
    }

    fn close(&mut self, text: &mut String) -> Fed {
        let closed = self.open.pop().map(|bracket| bracket.kind);
        text.push(if closed == Some(Kind::List) { ']' } else { '}' });
        self.at = At::After;
        if self.open.is_empty() { Fed::Last } else { Fed::More }
    }

    /// The first character of a key, or of a value.
    fn begin(&mut self, c: char, is_key: bool, text: &mut String) -> Fed {
        let own = self.notation.quote.chars().next();
        let is_bracket = !is_key && matches!(c, '[' | '{');
        let is_quote = matches!(c, '\'' | '"') || own == Some(c);
        let is_word = is_of_a_name(c) || !is_key && c == '+';
        if !(is_bracket || is_quote || is_word) || is_bracket && self.open.len() == DEPTH {
            return Fed::Wrong;
        }
        if let Some(bracket) = self.open.last_mut().filter(|bracket| is_key || bracket.kind == Kind::List)
            && std::mem::replace(&mut bracket.has_some, true)
        {
            text.push(',');
        }
        match c {
            '[' | '{' if is_bracket => {
                text.push(c);
                let kind = if c == '[' { Kind::List } else { Kind::Map };
                self.open.push(Bracket { kind, has_some: false });
                self.go(if c == '[' { At::Value } else { At::Key })
            }
            '\'' | '"' => {
                text.push('"');
                self.go(At::Text { quote: Some(c), is_key })
            }
            c if is_quote => {
                self.at = At::Quote { is_key };
                self.open_quote(c, is_key, text)
            }
            c => {
                self.held.push(c);
                self.go(if is_key { At::BareKey } else { At::Bare })
            }
        }
    }

    fn open_quote(&mut self, c: char, is_key: bool, text: &mut String) -> Fed {
        self.held.push(c);
        if self.held == self.notation.quote {
            self.held.clear();
            text.push('"');
            return self.go(At::Text { quote: None, is_key });
        }
        if self.notation.quote.starts_with(&*self.held) { Fed::More } else { Fed::Wrong }
    }

    fn bare_key(&mut self, c: char, text: &mut String) -> Fed {
        if c == self.assign() {
            text.push_str(&Value::from(take(&mut self.held).trim_end()).to_string());
            text.push(':');
            return self.go(At::Value);
        }
        self.hold(c, is_of_a_name(c) || c == ' ')
    }

    fn bare(&mut self, c: char, text: &mut String) -> Fed {
        if c == ',' || self.closes(c) {
            text.push_str(&scalar(take(&mut self.held).trim_end()));
            self.at = At::After;
            return self.feed(c, text);
        }
        self.hold(c, is_of_a_name(c) || c == '+' || c.is_whitespace())
    }

    fn hold(&mut self, c: char, is_part: bool) -> Fed {
        self.held.push(c);
        if is_part && self.held.len() < LONGEST_WORD { Fed::More } else { Fed::Wrong }
    }

    /// A character within quotes of one character.
    fn text(&mut self, c: char, quote: char, is_key: bool, text: &mut String) -> Fed {
        if !self.held.is_empty() {
            let ends = if is_key { c == self.assign() } else { c == ',' || self.closes(c) };
            if ends {
                self.held.clear();
                self.end_text(is_key, text);
                return self.feed(c, text);
            }
            if c.is_whitespace() && self.held.len() < LONGEST_WORD {
                self.held.push(c);
                return Fed::More;
            }
            take(&mut self.held).chars().for_each(|c| escape(c, text));
        }
        match c {
            c if c == quote => self.held.push(c),
            '\\' => self.at = At::Escape { quote, is_key },
            c => escape(c, text),
        }
        Fed::More
    }

    /// A character within the notation's own quotes, where nothing is escaped.
    fn own_text(&mut self, c: char, is_key: bool, text: &mut String) -> Fed {
        self.held.push(c);
        while !self.held.is_empty() && !self.notation.quote.starts_with(&*self.held) {
            escape(self.held.remove(0), text);
        }
        if self.held == self.notation.quote {
            self.held.clear();
            self.end_text(is_key, text);
        }
        Fed::More
    }

    fn end_text(&mut self, is_key: bool, text: &mut String) {
        text.push('"');
        self.at = if is_key { At::Assign } else { At::After };
    }

    /// The character behind a backslash.
    fn escape(&mut self, c: char, quote: char, is_key: bool, text: &mut String) -> Fed {
        match c {
            'u' => return self.go(At::Hexadecimal { quote, is_key }),
            '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => text.extend(['\\', c]),
            '\'' => text.push(c),
            c => {
                text.push_str("\\\\");
                escape(c, text);
            }
        }
        self.go(At::Text { quote: Some(quote), is_key })
    }

    /// One of four digits; fewer are words.
    fn hexadecimal(&mut self, c: char, quote: char, is_key: bool, text: &mut String) -> Fed {
        if c.is_ascii_hexdigit() {
            self.held.push(c);
            if self.held.len() < 4 {
                return Fed::More;
            }
            text.push_str("\\u");
            text.push_str(&take(&mut self.held));
            return self.go(At::Text { quote: Some(quote), is_key });
        }
        text.push_str("\\\\u");
        text.push_str(&take(&mut self.held));
        self.at = At::Text { quote: Some(quote), is_key };
        self.feed(c, text)
    }
}

/// A word or a number as JSON.
fn scalar(word: &str) -> String {
    match word {
        "true" | "True" => "true".to_owned(),
        "false" | "False" => "false".to_owned(),
        "null" | "None" | "none" => "null".to_owned(),
        word if serde_json::from_str::<Number>(word).is_ok() => word.to_owned(),
        word => Value::from(word).to_string(),
    }
}

/// A character as it stands in a text of JSON.
fn escape(c: char, text: &mut String) {
    match c {
        '"' | '\\' => text.extend(['\\', c]),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if c < ' ' => text.push_str(&format!("\\u{:04x}", c as u32)),
        c => text.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, json};

    fn python() -> Notation {
        Notation { open: '(', close: ')', assign: '=', quote: "'".to_owned() }
    }

    fn gemma() -> Notation {
        Notation { open: '{', close: '}', assign: ':', quote: "<|\"|>".to_owned() }
    }

    /// The arguments, and what follows them.
    fn read<'t>(notation: &Notation, text: &'t str) -> Option<(Value, &'t str)> {
        let mut json = String::new();
        let mut literal = Literal::new(notation.clone(), &mut json);
        for (at, c) in text.char_indices() {
            match literal.feed(c, &mut json) {
                Fed::More => {}
                Fed::Last => return Some((serde_json::from_str(&json).unwrap(), &text[at + c.len_utf8()..])),
                Fed::Over | Fed::Wrong => return None,
            }
        }
        None
    }

    #[test]
    fn arguments_in_two_notations() {
        for (text, value) in [
            (")", json!({})),
            ("a='b', c=\"d\")", json!({"a": "b", "c": "d"})),
            ("a=True,b=none , c=-1.5e3,)", json!({"a": true, "b": null, "c": -1500.0})),
            ("a=['x', [1, ], {\"k\": 'v', k2: {}}])", json!({"a": ["x", [1], {"k": "v", "k2": {}}]})),
            (
                "a='it's, \\'so\\' \"said\"', b=rainy day)",
                json!({"a": "it's, 'so' \"said\"", "b": "rainy day"}),
            ),
            ("a='\\u00fc\\n\\d\\u1x\n')", json!({"a": "ü\n\\d\\u1x\n"})),
            ("a={\"b\": \"c\\\"), \"})", json!({"a": {"b": "c\"), "}})),
        ] {
            assert_eq!(read(&python(), text), Some((value, "")), "{text}");
        }
        let own = "city:<|\"|>Bad \"Ems\" <|x\\<|\"|>,days:3,more:{a:[<|\"|>b<|\"|>,true],<|\"|>c d<|\"|>:null}}<tool_call|>";
        let value = json!({"city": "Bad \"Ems\" <|x\\", "days": 3, "more": {"a": ["b", true], "c d": null}});
        assert_eq!(read(&gemma(), own), Some((value, "<tool_call|>")));
        for text in
            ["a)", "a=)", "=1)", "a=1 'b')", "a=(1))", "a=[1)", "a='b'", "a=<x>)", "a={1:2", "1 + 1", "a=1;"]
        {
            assert_eq!(read(&python(), text), None, "{text}");
        }
        assert_eq!(read(&gemma(), "a:<|\"x"), None);
        assert_eq!(read(&python(), &format!("a={}", "[".repeat(DEPTH + 1))), None);
    }

    /// A value as a template writes it, which escapes nothing.
    fn written(value: &Value, notation: &Notation) -> String {
        let list = |parts: Vec<String>| parts.join(if notation.open == '(' { ", " } else { "," });
        match value {
            Value::String(text) => format!("{0}{text}{0}", notation.quote),
            Value::Array(values) => {
                format!("[{}]", list(values.iter().map(|value| written(value, notation)).collect()))
            }
            Value::Object(map) => {
                let entry = |(key, value): (&String, &Value)| format!("{key}:{}", written(value, notation));
                format!("{{{}}}", list(map.iter().map(entry).collect()))
            }
            Value::Bool(true) if notation.open == '(' => "True".to_owned(),
            Value::Null => "None".to_owned(),
            value => value.to_string(),
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z<>/{}\\[\\]\"\n ü🦙`|=()]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{1,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn arguments_come_back(map in prop::collection::btree_map("[a-z_]{1,6}", value(), 0..4)) {
            let map: Map<String, Value> = map.into_iter().collect();
            for notation in [python(), gemma()] {
                let entries = map.iter();
                let entries =
                    entries.map(|(key, value)| format!("{key}{}{}", notation.assign, written(value, &notation)));
                let text = format!("{}{}]", entries.collect::<Vec<_>>().join(", "), notation.close);
                prop_assert_eq!(read(&notation, &text), Some((Value::Object(map.clone()), "]")), "{}", text);
            }
        }
    }
}
