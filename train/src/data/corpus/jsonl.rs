//! JSONL: one JSON object a line, one of whose fields is the document. A line that has none is an error, or is counted
//! and left out where that was asked for.

use super::lines::Lines;
use super::{BadLines, DEFAULT_FIELD, Documents, Input, Kind};
use crate::Result;
use serde_json::Value;
use std::sync::Arc;

pub(super) const KIND: Kind = Kind { endings: &["jsonl", "ndjson"], may_be_compressed: true, open };

fn open(input: &Input) -> Result<Documents> {
    let field = input.field.unwrap_or(DEFAULT_FIELD).to_owned();
    let bad_lines = input.bad_lines.cloned();
    Ok(Box::new(Jsonl { lines: Lines::open(input.path)?, field, bad_lines, is_over: false }))
}

struct Jsonl {
    lines: Lines,
    field: String,
    bad_lines: Option<Arc<BadLines>>,
    is_over: bool,
}

impl Jsonl {
    /// The next document; `null` counts as an empty one.
    fn read(&mut self) -> Result<Option<String>> {
        let Some(line) = self.lines.next()? else { return Ok(None) };
        if line.trim().is_empty() {
            return Ok(Some(String::new()));
        }
        let object = match serde_json::from_str(line) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(self.lines.malformed("a JSON object", "another value")),
            Err(error) => return Err(self.lines.malformed("a JSON object", error)),
        };
        self.text(object).map(Some)
    }

    fn text(&self, mut object: serde_json::Map<String, Value>) -> Result<String> {
        let expected = || format!("text in the field {:?}", self.field);
        match object.get_mut(&self.field).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Null) => Ok(String::new()),
            Some(other) => Err(self.lines.malformed(&expected(), other)),
            None => {
                let names = object.keys().take(20).map(String::as_str).collect::<Vec<_>>().join(", ");
                Err(self.lines.malformed(&expected(), format!("the fields {names} (choose with PATH:FIELD)")))
            }
        }
    }
}

impl Iterator for Jsonl {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let mut read = self.read();
        // What the system refuses, and a line without an end, are no matter of one line.
        while let (Err(error), Some(bad_lines)) = (&read, &self.bad_lines)
            && self.lines.is_at_fault(error)
        {
            bad_lines.note(error);
            read = self.read();
        }
        self.is_over = read.is_err();
        read.transpose()
    }
}
