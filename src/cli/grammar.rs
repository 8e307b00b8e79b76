//! The flags that say what an answer has to be, for `run` and `chat`.

use super::text;
use anyhow::{Context, Result};
use clap::Args;
use moewe_engine::dialogue::Reader;
use moewe_engine::generate::{Guide, Guided};
use moewe_engine::grammar::{Begins, Constraint, Grammar};
use moewe_engine::session::Engine;
use std::path::{Path, PathBuf};

// No doc comment: see options.rs.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Choosing tokens")]
pub(super) struct GrammarOptions {
    /// Answer with a text of this grammar, in GBNF, or in Lark where the file is called .lark
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// Answer with JSON that is valid by this schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "grammar")]
    json_schema: Option<String>,
}

impl GrammarOptions {
    /// What rules each answer, at its beginning; thoughts are free.
    ///
    /// # Errors
    /// When a file cannot be read, or what it says does not compile.
    pub(super) fn constraint(&self, engine: &Engine) -> Result<Option<Constraint>> {
        let Some((flag, grammar)) = self.read()? else { return Ok(None) };
        let matcher = engine.vocabulary()?.compile(&grammar).with_context(|| flag)?;
        Ok(Some(Constraint { matcher, begins: Begins::AfterThought }))
    }

    /// What is asked for, and by which flag.
    fn read(&self) -> Result<Option<(&'static str, Grammar)>> {
        if let Some(file) = &self.grammar {
            let text = text::read(file)?;
            let is_lark = file.extension().is_some_and(|ending| ending == "lark");
            let grammar = if is_lark { Grammar::Lark(text) } else { Grammar::of_text(&text) };
            return Ok(Some(("--grammar", grammar)));
        }
        let Some(given) = &self.json_schema else { return Ok(None) };
        let json = match given.trim_start().starts_with('{') {
            true => given.clone(),
            false => text::read(Path::new(given))?,
        };
        let schema = serde_json::from_str(&json).context("--json-schema is no JSON")?;
        Ok(Some(("--json-schema", Grammar::JsonSchema(schema))))
    }
}

/// A reader of an answer, with what rules it.
pub(super) fn guided(reader: Reader, constraint: Option<&Constraint>) -> Guided {
    Guided { reader, guide: constraint.cloned().map(Guide::new) }
}
