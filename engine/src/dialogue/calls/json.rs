//! One JSON value that comes character by character: where it ends, and whether it is one at all.
//!
//! What a text breaks off is known at the character that no JSON can have there, so nothing wrong is passed on. Line
//! breaks and other control characters within strings, which models write and JSON forbids, become escapes.

/// Deeper values are none.
const DEPTH: usize = 128;

/// What a character is to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dialogue) enum Fed {
    /// Part of it.
    More,
    /// Its last one.
    Last,
    /// No part of it: the value, a number or a word, has ended before.
    Over,
    /// Nothing that JSON has here.
    Wrong,
}

/// Within one value.
#[derive(Clone, Debug)]
pub(in crate::dialogue) struct Scanner {
    open: Vec<char>, // `{` and `[` that are not closed
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Value { may_close: bool },
    Key { may_close: bool },
    Colon,
    After,
    Text { is_key: bool },
    Escape { is_key: bool },
    Hexadecimal { is_key: bool, left: u8 },
    Number(Digits),
    Word(&'static str),
}

/// Where in a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Digits {
    Sign,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    Power,
}

impl Scanner {
    /// Before the value's first character.
    pub(in crate::dialogue) fn new() -> Self {
        Self { open: vec![], at: At::Value { may_close: false } }
    }

    /// The next character, which is appended to `text` if it is part of the value.
    pub(in crate::dialogue) fn feed(&mut self, c: char, text: &mut String) -> Fed {
        let is_within_text = matches!(self.at, At::Text { .. });
        let fed = self.take(c);
        if matches!(fed, Fed::More | Fed::Last) {
            match c {
                '\n' if is_within_text => text.push_str("\\n"),
                '\t' if is_within_text => text.push_str("\\t"),
                '\r' if is_within_text => text.push_str("\\r"),
                c if is_within_text && c < ' ' => text.push_str(&format!("\\u{:04x}", c as u32)),
                c => text.push(c),
            }
        }
        fed
    }

    fn take(&mut self, c: char) -> Fed {
        let is_space = matches!(c, ' ' | '\n' | '\r' | '\t');
        match self.at {
            At::Text { is_key } => self.text(c, is_key),
            At::Escape { is_key } => match c {
                'u' => self.go(At::Hexadecimal { is_key, left: 4 }),
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.go(At::Text { is_key }),
                _ => Fed::Wrong,
            },
            At::Hexadecimal { is_key, left } => match (c.is_ascii_hexdigit(), left) {
                (true, 1) => self.go(At::Text { is_key }),
                (true, _) => self.go(At::Hexadecimal { is_key, left: left - 1 }),
                (false, _) => Fed::Wrong,
            },
            At::Number(digits) => match next_digit(digits, c) {
                Some(digits) => self.go(At::Number(digits)),
                None => self.over(c),
            },
            At::Word(rest) if rest.starts_with(c) => self.go(At::Word(&rest[1..])),
            At::Word(_) => self.over(c),
            _ if is_space => Fed::More,
            At::Value { may_close: true } if c == ']' => self.close(),
            At::Value { .. } => self.begin(c),
            At::Key { may_close: true } if c == '}' => self.close(),
            At::Key { .. } if c == '"' => self.go(At::Text { is_key: true }),
            At::Colon if c == ':' => self.go(At::Value { may_close: false }),
            At::After => match (self.open.last(), c) {
                (Some('{'), ',') => self.go(At::Key { may_close: false }),
                (Some('['), ',') => self.go(At::Value { may_close: false }),
                (Some('{'), '}') | (Some('['), ']') => self.close(),
                _ => Fed::Wrong,
            },
            At::Key { .. } | At::Colon => Fed::Wrong,
        }
    }

    fn go(&mut self, at: At) -> Fed {
        self.at = at;
        Fed::More
    }

    fn begin(&mut self, c: char) -> Fed {
        match c {
            '{' | '[' if self.open.len() == DEPTH => Fed::Wrong,
            '{' => {
                self.open.push(c);
                self.go(At::Key { may_close: true })
            }
            '[' => {
                self.open.push(c);
                self.go(At::Value { may_close: true })
            }
            '"' => self.go(At::Text { is_key: false }),
            't' => self.go(At::Word("rue")),
            'f' => self.go(At::Word("alse")),
            'n' => self.go(At::Word("ull")),
            '-' => self.go(At::Number(Digits::Sign)),
            '0' => self.go(At::Number(Digits::Zero)),
            '1'..='9' => self.go(At::Number(Digits::Whole)),
            _ => Fed::Wrong,
        }
    }

    fn text(&mut self, c: char, is_key: bool) -> Fed {
        match c {
            '\\' => self.go(At::Escape { is_key }),
            '"' if is_key => self.go(At::Colon),
            '"' => self.end(),
            _ => Fed::More,
        }
    }

    /// A value has ended with this character.
    fn end(&mut self) -> Fed {
        self.at = At::After;
        if self.open.is_empty() { Fed::Last } else { Fed::More }
    }

    fn close(&mut self) -> Fed {
        self.open.pop();
        self.end()
    }

    /// A number or a word has ended before this character, if it may.
    fn over(&mut self, c: char) -> Fed {
        use Digits::{Fraction, Power, Whole, Zero};
        if !matches!(self.at, At::Number(Zero | Whole | Fraction | Power) | At::Word("")) {
            return Fed::Wrong;
        }
        if self.open.is_empty() {
            return Fed::Over;
        }
        self.at = At::After;
        self.take(c)
    }
}

fn next_digit(digits: Digits, c: char) -> Option<Digits> {
    use Digits::{Exponent, ExponentSign, Fraction, Point, Power, Sign, Whole, Zero};
    Some(match (digits, c) {
        (Sign, '0') => Zero,
        (Sign, '1'..='9') | (Whole, '0'..='9') => Whole,
        (Zero | Whole, '.') => Point,
        (Point | Fraction, '0'..='9') => Fraction,
        (Zero | Whole | Fraction, 'e' | 'E') => Exponent,
        (Exponent, '+' | '-') => ExponentSign,
        (Exponent | ExponentSign | Power, '0'..='9') => Power,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn may_end(scanner: &Scanner) -> bool {
        use Digits::{Fraction, Power, Whole, Zero};
        scanner.open.is_empty()
            && matches!(scanner.at, At::Number(Zero | Whole | Fraction | Power) | At::Word(""))
    }

    /// The value at the beginning of `text`, as long as there is one; where it ended.
    fn scan(text: &str) -> (String, Option<usize>) {
        let (mut scanner, mut value) = (Scanner::new(), String::new());
        for (at, c) in text.char_indices() {
            match scanner.feed(c, &mut value) {
                Fed::More => {}
                Fed::Last => return (value, Some(at + c.len_utf8())),
                Fed::Over => return (value, Some(at)),
                Fed::Wrong => return (value, None),
            }
        }
        let end = may_end(&scanner).then_some(text.len());
        (value, end)
    }

    #[test]
    fn values_end_where_serde_says() {
        for text in [
            "{}",
            "[]",
            " {\"a\": [1, -0.5e+3, {\"b\": null}], \"\": \"}{\"} x",
            "\"\\u00fc\\\"\" ",
            "true,",
            "-0",
            "1.5]",
            "[[],[ ],{} ]",
            "\"ü🦙\"",
            "12 ",
            "0}",
            "nullx",
            "1e5e",
            "{\"a\":1}{",
        ] {
            let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
            let value = values.next();
            let (scanned, end) = scan(text);
            if let Some(Ok(value)) = value {
                assert_eq!(serde_json::from_str::<Value>(&scanned).unwrap(), value, "{text}");
                assert_eq!(end, Some(values.byte_offset()), "{text}");
            } else {
                assert!(matches!(text, "nullx" | "1e5e"), "{text}");
            }
        }
        for text in [
            "",
            "{",
            "{a",
            "{\"a\"}",
            "{,",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "-",
            "1.",
            "1e",
            "tru",
            "truE",
            "\"\\x\"",
            "\"\\u12g4\"",
            "[}",
            "{]",
            "nan",
            "'a'",
            "}",
        ] {
            let (_, end) = scan(text);
            assert!(end.is_none() || text == "01", "{text}: {end:?}");
        }
        assert_eq!(scan("\"a\nb\t\u{1}\""), ("\"a\\nb\\t\\u0001\"".into(), Some(7)));
        assert_eq!(scan(&"[".repeat(DEPTH + 1)), ("[".repeat(DEPTH), None));
    }

    proptest! {
        /// No text is taken for JSON that serde does not take, and none refused that it takes.
        #[test]
        fn what_is_json(text in "[\\[\\]{}\",:0-2eE.+\\-truefalsn \\\\ü]{0,12}") {
            let (scanned, end) = scan(&text);
            let whole = end.filter(|&end| text[end..].trim().is_empty()).is_some();
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(whole, is_json, "{:?}", scanned);
        }
    }
}
