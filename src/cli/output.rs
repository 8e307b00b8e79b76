//! Words and figures for people: lines on stdout and stderr, tables, units, and text made safe for a terminal.
//!
//! stdout is written with `writeln!`, never `println!`, so that a closed pipe is an error and not a panic.

use anyhow::{Context, Result};
use moewe_engine::os::terminal;
use serde::Serialize;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdout};

/// A line on stdout: a result.
pub(crate) fn print(line: impl Display) -> Result<()> {
    writeln!(stdout(), "{line}").context("cannot write to stdout")
}

/// A line on stderr: news on the way. That nobody can read it is no reason to stop.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Whether a stream shows colours: a terminal whose owner has not refused them.
pub(crate) fn has_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && terminal::takes_escapes()
}

/// `line` in the background, where stderr shows colours.
pub(crate) fn dim(line: &str) -> String {
    if has_colours(&stderr()) { format!("\u{1b}[2m{line}\u{1b}[0m") } else { line.to_owned() }
}

/// Figures on stdout as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// Rows whose columns line up.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize], // columns that hold numbers
}

impl Table {
    /// A table with a heading; the columns `right` are aligned to the right.
    pub(crate) fn new(heading: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![heading.iter().map(|&title| title.to_owned()).collect()], right }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole table on stdout.
    pub(crate) fn print(&self) -> Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |i: usize| self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
        self.rows.iter().try_for_each(|row| print(self.line(row, &widths)))
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, &width))| {
            if self.right.contains(&i) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// Bytes in powers of 1024, as memory is sold: "87.5 MiB".
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A large number: "134.5 M".
pub(crate) fn count(count: u64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "B", "T"])
}

/// So many of a thing: "1 turn", "2 turns".
pub(crate) fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

fn scaled(count: u64, step: f64, units: &[&str]) -> String {
    if (count as f64) < step {
        return format!("{count} {}", units[0]).trim_end().to_owned();
    }
    let power = ((count as f64).ln() / step.ln()) as usize;
    let power = power.min(units.len() - 1);
    format!("{:.1} {}", count as f64 / step.powi(power as i32), units[power])
}

/// A stranger's text on one line, control characters escaped, at most `limit` characters.
pub(crate) fn excerpt(text: &str, limit: usize) -> String {
    let mut shown: String = text.chars().take(limit).map(escaped).collect();
    if text.chars().nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

fn escaped(character: char) -> String {
    if character.is_control() { character.escape_debug().collect() } else { character.to_string() }
}

/// Text for a terminal: what could steer it is left out, except line ends and tabs.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (value, as_bytes, as_count) in [
            (0, "0 B", "0"),
            (999, "999 B", "999"),
            (1000, "1000 B", "1.0 k"),
            (1024, "1.0 KiB", "1.0 k"),
            (134_515_008, "128.3 MiB", "134.5 M"),
            (24_200_000_000, "22.5 GiB", "24.2 B"),
            (u64::MAX, "16777216.0 TiB", "18446744.1 T"),
        ] {
            assert_eq!((bytes(value).as_str(), count(value).as_str()), (as_bytes, as_count));
        }
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "turn")), ["0 turns", "1 turn", "2 turns"]);
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(excerpt("a\u{1b}[31m\nb", 20), r"a\u{1b}[31m\nb");
        assert_eq!(excerpt("äöü", 2), "äö…");
        assert_eq!(harmless("a\u{1b}[2J\tb\r\n\u{9b}c"), "a[2J\tb\nc");
    }

    #[test]
    fn columns_line_up() {
        let table = Table { rows: vec![], right: &[1] };
        let row = ["ä".to_owned(), "1".to_owned(), "x".to_owned()];
        assert_eq!(table.line(&row, &[3, 3, 3]), "ä      1  x");
    }
}
