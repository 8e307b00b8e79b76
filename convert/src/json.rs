//! JSON as Python writes and reads it: a byte order mark in front, NaN and Infinity as numbers. Every JSON file beside a
//! checkpoint comes in here. Numbers that are none become texts, so that whoever wants a number says what it found.

use moewe_engine::gguf::mistaken;
use moewe_engine::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Largest file that is read: the index of a thousand shards stays far below.
const LARGEST: u64 = 64 << 20;
/// What Python writes for numbers that are none.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// A JSON file of bounded size.
///
/// # Errors
/// Files that cannot be read, are too large, or hold something else, with what that is.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?.len();
    if size > LARGEST {
        return Err(Error::malformed("size", format!("at most {LARGEST} bytes"), size).in_file(path));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    parse(&bytes).map_err(|e| e.in_file(path))
}

/// The value of a file's bytes.
///
/// # Errors
/// Bytes that are no JSON, with what they are instead.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).or_else(|error| {
        if let Some(what) = mistaken(bytes) {
            return Err(what);
        }
        let text = std::str::from_utf8(bytes).ok().and_then(with_quoted_numbers);
        let again = text.and_then(|text| serde_json::from_str(&text).ok());
        again.ok_or_else(|| Error::malformed("contents", "JSON", error))
    })
}

/// The text with NaN and Infinity in quotes, where they stand outside of strings; `None` where there are none.
fn with_quoted_numbers(text: &str) -> Option<String> {
    let (mut out, mut rest, mut changed) = (String::with_capacity(text.len()), text, false);
    while let Some(at) = rest.find(['"', '-', 'N', 'I']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(word) = NO_NUMBERS.iter().find(|word| rest.starts_with(**word)) {
            out.extend(["\"", word, "\""]);
            (rest, changed) = (&rest[word.len()..], true);
            continue;
        }
        let len = if rest.starts_with('"') { string_length(rest) } else { 1 };
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// Bytes of the string that a text begins with, both quotes included; all of it where it does not end.
fn string_length(text: &str) -> usize {
    let mut is_escaped = true; // the first quote ends nothing
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let cases = [
            ("\u{feff}{\"a\": 1}", r#"{"a": 1}"#),
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#,
                r#"{"a": "NaN", "b": ["Infinity", "-Infinity", -1]}"#,
            ),
            (
                r#"{"NaN": "x, NaN \" Infinity\\", "b": NaN}"#,
                r#"{"NaN": "x, NaN \" Infinity\\", "b": "NaN"}"#,
            ),
        ];
        for (text, expected) in cases {
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_with_what_it_is() {
        let cases: [(&[u8], &str); 5] = [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
            (b"<!DOCTYPE html><html></html>", "web page"),
            (b"Entry not found", "not a file"),
            (b"\xff\xfe{\0}\0", "UTF-8"),
            (b"{\"a\": NaN", "expected JSON"),
        ];
        for (bytes, expected) in cases {
            let message = parse(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
