//! One question to the person at the terminal.

use anyhow::{Context, Result};
use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

/// Asks a person at the terminal; whatever is not yes is no.
pub(super) fn confirm(question: &str) -> Result<bool> {
    match Editor::<(), FileHistory>::new()?.readline(question) {
        Ok(answer) => Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")),
        Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(false),
        Err(error) => Err(error).context("cannot read from the terminal"),
    }
}
