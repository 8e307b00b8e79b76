//! What an answer may be: a JSON schema, a regular expression or a grammar, as the tokens that may come next.
//!
//! A [`Vocabulary`] compiles a [`Grammar`] to a [`Matcher`], which follows one answer and says of every token whether it
//! may come. The crate `llguidance` knows the languages; here stand the limits within which a stranger's are compiled,
//! and the translation of GBNF (`gbnf.rs` reads it, `lark.rs` writes it). What does not compile is an error, never an
//! answer without bounds.

mod ambiguity;
mod characters;
mod compile;
mod gbnf;
mod lark;
mod mask;
mod matcher;
#[cfg(test)]
mod tests;
mod vocabulary;

use crate::{Error, Result};
use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

pub use mask::Mask;
pub use matcher::{Matcher, Next};
pub use vocabulary::Vocabulary;

/// Bytes of a grammar or an expression.
const LARGEST: usize = 64 << 10;
/// Bytes of a schema, written without spaces.
const LARGEST_SCHEMA: usize = 256 << 10;
/// Groups within groups, and schemas within schemas.
const DEEPEST: usize = 100;
/// White space between the tokens of JSON: what printers put there, but not so much that a model may go on with it for
/// ever.
const WHITE_SPACE: &str = r" |(\r?\n){1,2}[ \t]{0,40}";

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that is valid by a schema.
    JsonSchema(Value),
    /// A text that an expression (of the crate `regex`) matches as a whole.
    Regex(String),
    /// A text of a grammar in llguidance's kind of Lark.
    Lark(String),
    /// A text of a grammar in llama.cpp's notation.
    Gbnf(String),
}

/// Where in an answer a grammar begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// With the first token.
    AtOnce,
    /// After the thoughts, where the model has any; these are free.
    AfterThought,
    /// With each call of a tool, behind its mark; it ends with the call, and all else is free.
    WithEachCall,
}

/// A grammar for one answer.
#[derive(Clone)]
pub struct Constraint {
    /// At its beginning.
    pub matcher: Matcher,
    /// Where it rules.
    pub begins: Begins,
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::JsonSchema(json!({ "type": "object" }))
    }

    /// A grammar in GBNF, or in Lark where the text begins with `%llguidance`.
    pub fn of_text(text: &str) -> Self {
        match text.trim_start().starts_with("%llguidance") {
            true => Self::Lark(text.to_owned()),
            false => Self::Gbnf(text.to_owned()),
        }
    }

    /// What the library compiles.
    fn lowered(&self) -> Result<TopLevelGrammar> {
        match self {
            Self::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(with_white_space(schema)?)),
            Self::Regex(expression) => {
                check_text("the expression", expression)?;
                Ok(TopLevelGrammar::from_regex(expression))
            }
            Self::Lark(text) => {
                check_text("the grammar", text)?;
                Ok(TopLevelGrammar::from_lark(text.clone()))
            }
            Self::Gbnf(text) => {
                check_size("the grammar", text.len(), LARGEST)?;
                Ok(TopLevelGrammar::from_lark(lark::of_gbnf(text)?))
            }
        }
    }
}

fn check_size(what: &str, bytes: usize, most: usize) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    Err(Error::request(format!("{what} has {bytes} bytes; at most {most} are read")))
}

fn too_deep(what: &str) -> Error {
    Error::request(format!("{what} is nested more than {DEEPEST} deep"))
}

/// Bounds what a recursive reader will meet. Brackets in literals count as well.
fn check_text(what: &str, text: &str) -> Result<()> {
    check_size(what, text.len(), LARGEST)?;
    let (mut depth, mut is_escaped) = (0usize, false);
    for c in text.chars() {
        match c {
            _ if is_escaped => {}
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
        if depth > DEEPEST {
            return Err(too_deep(what));
        }
    }
    Ok(())
}

/// The schema with our white space and none of the settings that it may bring for the library.
fn with_white_space(schema: &Value) -> Result<Value> {
    let mut schema = match schema {
        Value::Bool(true) => Map::new(),
        Value::Object(schema) => schema.clone(),
        _ => return Err(Error::request("a schema is an object; this one is none")),
    };
    schema.remove("x-guidance");
    let mut levels: Vec<&Value> = schema.values().collect();
    for _ in 0..DEEPEST {
        levels = levels.into_iter().flat_map(children).collect();
    }
    if !levels.is_empty() {
        return Err(too_deep("the schema"));
    }
    let text = serde_json::to_string(&schema).map_err(|error| Error::request(error.to_string()))?;
    check_size("the schema", text.len(), LARGEST_SCHEMA)?;
    schema.insert("x-guidance".into(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Ok(schema.into())
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => vec![],
    }
}
