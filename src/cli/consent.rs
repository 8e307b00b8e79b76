//! Questions to the person at the terminal, before something large is fetched or written, or something is removed.
//!
//! Where nobody can be asked, `--yes` is the answer; whoever needs one says so in an error of its own.

use super::output;
use anyhow::{Context, Result};
use moewe_engine::Error;
use std::io::{BufRead, IsTerminal, stderr, stdin};

/// What an answer of nothing means.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Usual {
    Yes,
    No,
}

/// Whether somebody sees a question and can answer it.
pub(super) fn can_ask() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Asks whether to go on, once. Anything but a yes is [`Error::Stopped`].
pub(super) fn ask(question: &str, usual: Usual) -> Result<()> {
    output::note(format!("{question}? {}", if usual == Usual::Yes { "[Y/n]" } else { "[y/N]" }));
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    if is_yes(&answer, usual) { Ok(()) } else { Err(Error::Stopped.into()) }
}

/// The end of the input is no answer.
fn is_yes(answer: &str, usual: Usual) -> bool {
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" | "j" | "ja" => true,
        "" => usual == Usual::Yes && !answer.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (answer, to_yes, to_no) in [
            ("\n", true, false),
            ("", false, false),
            ("y\n", true, true),
            (" Ja \r\n", true, true),
            ("n\n", false, false),
            ("what?\n", false, false),
        ] {
            let found = (is_yes(answer, Usual::Yes), is_yes(answer, Usual::No));
            assert_eq!(found, (to_yes, to_no), "{answer:?}");
        }
    }
}
