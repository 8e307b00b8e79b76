//! Progress on stderr, which only a terminal shows, and work on a text that Ctrl-C stops.

use indicatif::{ProgressBar, ProgressStyle};
use moewe_engine::os::interrupt::{self, Listener};

/// What a bar shows of the pieces of a text.
pub(crate) const PIECES: &str = "{bar:30} {pos}/{len} pieces of text, {eta} left{msg}";

/// A bar in indicatif's words, of no length as yet.
pub(crate) fn bar(quiet: bool, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A text being read: a bar until it is dropped, and Ctrl-C, which ends the reading.
pub(crate) struct Reading {
    bar: ProgressBar,
    listener: Listener,
}

impl Reading {
    pub(crate) fn begin(quiet: bool) -> Self {
        Self { bar: bar(quiet, PIECES), listener: interrupt::listen() }
    }

    /// So many pieces of so many are read; whether to go on.
    pub(crate) fn goes_on(&self, done: usize, all: usize) -> bool {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        !self.listener.is_raised()
    }

    /// What is known so far.
    pub(crate) fn say(&self, message: String) {
        self.bar.set_message(message);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
