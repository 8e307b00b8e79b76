//! What a pass over data shows: figures on the terminal while it runs, results on stdout.
//!
//! Where stderr is no terminal, a line a minute, so that logs stay short.

use crate::Result;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Something that shows progress, or nothing where that is wanted.
pub(super) fn watch<P: Display>(quiet: bool) -> impl FnMut(&P) {
    let is_terminal = std::io::stderr().is_terminal();
    let pause = Duration::from_secs(if is_terminal { 1 } else { 60 });
    let mut last = Instant::now();
    move |progress| {
        if quiet || last.elapsed() < pause {
            return;
        }
        last = Instant::now();
        let mut stderr = std::io::stderr();
        // Nobody is served by a failure to show progress.
        let _ =
            if is_terminal { write!(stderr, "\r\x1b[K{progress}") } else { writeln!(stderr, "{progress}") };
    }
}

/// Takes the figures from the terminal.
pub(super) fn clear() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// A result, on a line of its own below the figures.
pub(super) fn print(line: impl Display) -> Result<()> {
    clear();
    super::say(&format!("{line}\n"))
}
