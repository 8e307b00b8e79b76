//! An answer on its way to a person: what is said goes to stdout, what is thought to stderr, in the background.

use super::output;
use anyhow::{Context, Result};
use moewe_engine::dialogue::Piece;
use std::io::{IsTerminal, Write, stderr, stdout};

/// Shows the pieces of one answer as they come.
pub(crate) struct Screen {
    shows_thoughts: bool,
    is_terminal: bool,
    trims: bool,          // leaves out white space before the first word
    column_is_zero: bool, // of stdout
    is_thinking: bool,    // the latest text was a thought, its line is open
}

impl Screen {
    /// `trims`: white space before the first word of the answer is left out.
    pub(crate) fn new(shows_thoughts: bool, trims: bool) -> Self {
        let is_terminal = stdout().is_terminal();
        Self { shows_thoughts, is_terminal, trims, column_is_zero: true, is_thinking: false }
    }

    /// Shows a piece.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub(crate) fn show(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Reasoning(text) if self.shows_thoughts => {
                self.think(text);
                Ok(())
            }
            Piece::Reasoning(_) => Ok(()),
            Piece::Answer(text) | Piece::Call(text) | Piece::Arguments(text) => self.say(text),
        }
    }

    fn think(&mut self, text: &str) {
        self.is_thinking = true;
        // That nobody can read it is no reason to stop.
        let _ = write!(stderr(), "{}", output::dim(&output::harmless(text)));
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let text = if self.trims { text.trim_start() } else { text };
        let text = if self.is_terminal { output::harmless(text) } else { text.to_owned() };
        if text.is_empty() {
            return Ok(());
        }
        self.end_thought();
        self.trims = false;
        self.column_is_zero = text.ends_with('\n');
        let mut out = stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
    }

    fn end_thought(&mut self) {
        if std::mem::take(&mut self.is_thinking) {
            output::note("\n");
        }
    }

    /// Ends the line that the answer left open.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.end_thought();
        if self.column_is_zero { Ok(()) } else { output::print("") }
    }
}
