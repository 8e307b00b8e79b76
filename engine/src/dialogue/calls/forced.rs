//! A grammar of calls, for answers that have to call a tool: in the words in which the template writes calls, or as a bare
//! JSON object. Arguments are what the tools' schemas say.

use super::marks::ANY;
use super::{Calls, Offer, Tool};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// Writes rules of llguidance's kind of Lark.
pub(in crate::dialogue) struct Rules<'t> {
    tokenizer: &'t Tokenizer,
    lines: Vec<String>,
}

impl<'t> Rules<'t> {
    pub(in crate::dialogue) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, lines: vec![] }
    }

    /// The grammar that begins with `start`.
    pub(in crate::dialogue) fn grammar(self, start: &str) -> String {
        format!("start: {start}\n{}\n", self.lines.join("\n"))
    }

    /// A rule for `body`; its name.
    pub(in crate::dialogue) fn rule(&mut self, body: &str) -> String {
        let name = format!("r{}", self.lines.len());
        self.lines.push(format!("{name}: {body}"));
        name
    }

    /// JSON of a schema, spaced as templates space it.
    pub(in crate::dialogue) fn json(&mut self, schema: &Value) -> String {
        let mut schema = schema.as_object().cloned().unwrap_or_default();
        let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        schema.insert("x-guidance".to_owned(), spaces);
        self.rule(&format!("%json {}", Value::Object(schema)))
    }

    /// Any text up to `end`, which has no tag of `close` in it but the one at its end.
    pub(super) fn text(&mut self, close: &str, end: &str) -> String {
        let escape = |text: &str| regex::escape(text).replace('/', "\\/").replace('\n', "\\n");
        let (close, end) = (escape(close.trim()), escape(end));
        let name = format!("T{}", self.lines.len());
        self.lines.push(format!("{name}: /(?s:.*){end}/ & ~/(?s:.*){close}(?s:.+)/"));
        name
    }

    /// Any text, and the quote that ends it.
    pub(in crate::dialogue) fn free_text(&mut self, quote: &str) -> String {
        if self.control(quote).is_none_or(|(_, length)| length != quote.len()) {
            return self.text(quote, quote);
        }
        let name = format!("T{}", self.lines.len());
        self.lines.push(format!("{name}: /(?s:.*)/"));
        format!("{name} {}", self.literal(quote))
    }

    /// A fixed text, in which control tokens are found and what varies is some letters and digits.
    pub(in crate::dialogue) fn literal(&self, text: &str) -> String {
        let (mut parts, mut rest, mut plain) = (vec![], text, String::new());
        let flush = |plain: &mut String, parts: &mut Vec<String>| {
            if !plain.is_empty() {
                parts.push(Value::from(std::mem::take(plain)).to_string());
            }
        };
        while let Some(c) = rest.chars().next() {
            let control = self.control(rest);
            if c == ANY || control.is_some() {
                flush(&mut plain, &mut parts);
            }
            let length = match control {
                Some((id, length)) => {
                    parts.push(format!("<[{id}]>"));
                    length
                }
                None if c == ANY => {
                    parts.push("/[0-9A-Za-z]{9}/".to_owned());
                    c.len_utf8()
                }
                None => {
                    plain.push(c);
                    c.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        flush(&mut plain, &mut parts);
        if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") }
    }

    /// The control token that a text begins with, and its length.
    fn control(&self, text: &str) -> Option<(u32, usize)> {
        let close = match text.chars().next()? {
            '<' => '>',
            '[' => ']',
            _ => return None,
        };
        let length = text.find(close)? + 1;
        let id = self.tokenizer.id_of(&text[..length]).filter(|&id| self.tokenizer.is_control(id))?;
        Some((id, length))
    }
}

impl Calls {
    /// A grammar in Lark of one call, from behind its mark.
    pub(in crate::dialogue) fn grammar_of_one(&self, offer: &Offer, tokenizer: &Tokenizer) -> Option<String> {
        if self.is_bare {
            return None; // every answer that begins like JSON would have to be a call
        }
        let mut rules = Rules::new(tokenizer);
        let call = self.call(offer, &mut rules);
        Some(rules.grammar(&format!("/[ \\n]{{0,4}}/ {call}")))
    }

    /// A rule of a call of any of these tools.
    fn call(&self, offer: &Offer, rules: &mut Rules<'_>) -> String {
        let calls: Vec<String> = offer.tools.iter().map(|tool| self.kind.rule(tool, rules)).collect();
        rules.rule(&calls.join(" | "))
    }

    /// A grammar in Lark of a call of one of these tools, or of several calls where there may be several.
    pub(in crate::dialogue) fn grammar(&self, offer: &Offer, tokenizer: &Tokenizer) -> String {
        let mut rules = Rules::new(tokenizer);
        let call = self.call(offer, &mut rules);
        let [before, between, behind] = [&self.before, &self.between, &self.behind];
        let mut start = format!("{} {call}", rules.literal(before.trim_start()));
        if offer.several
            && let Some(between) = Some(between).filter(|between| !between.trim().is_empty())
        {
            start += &format!(" ({} {call})*", rules.literal(between));
        }
        let behind = rules.literal(behind.trim_end());
        rules.grammar(&format!("{start} {behind}"))
    }
}

/// The schema of one parameter, as one that stands alone.
pub(super) fn parameter(tool: &Tool, schema: &Value) -> Value {
    let mut schema: Map<String, Value> = schema.as_object().cloned().unwrap_or_default();
    for key in ["$defs", "definitions"] {
        if let Some(shared) = tool.parameters.get(key) {
            schema.insert(key.to_owned(), shared.clone());
        }
    }
    Value::Object(schema)
}
