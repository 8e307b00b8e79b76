//! Examples as a person sees them before training: the text that the model gets, with what it is trained on marked.
//!
//! Characters that would steer a terminal are spelled out.

use super::prepare::{Found, Settings, first};
use super::wording::Wording;
use crate::Result;
use std::fmt::Write;

/// What begins and ends a trained stretch.
struct Marks {
    begin: &'static str,
    end: &'static str,
    legend: &'static str,
}

const COLOURED: Marks =
    Marks { begin: "\x1b[1;32m", end: "\x1b[0m", legend: "\x1b[1;32mtrained\x1b[0m, only read" };
const PLAIN: Marks = Marks { begin: "⟦", end: "⟧", legend: "⟦trained⟧, only read" };

/// The first `count` examples with what is trained, a legend and counts.
///
/// # Errors
/// As [`super::prepare()`].
pub fn show(settings: &Settings, wording: &Wording, count: usize, is_coloured: bool) -> Result<String> {
    let marks = if is_coloured { COLOURED } else { PLAIN };
    let examples = first(settings, wording, count)?;
    let mut out = String::new();
    for example in &examples {
        show_one(&mut out, example, &marks);
    }
    let kept = || examples.iter().filter(|example| !example.masked.is_left_out());
    let tokens: usize = kept().map(|example| example.masked.encoded.tokens.len()).sum();
    let trained: usize = kept().map(|example| example.masked.labels()).sum();
    let left_out = match examples.len() - kept().count() {
        0 => String::new(),
        count => format!(", {count} left out"),
    };
    let (legend, examples) = (marks.legend, examples.len());
    // Nobody fails to write into a string.
    let _ =
        writeln!(out, "{legend}: {examples} examples{left_out}; {tokens} tokens, {trained} of them trained");
    Ok(out)
}

fn show_one(out: &mut String, example: &Found, marks: &Marks) {
    let Found { path, line, kind, masked } = example;
    let (tokens, trained) = (masked.encoded.tokens.len(), masked.labels());
    let _ = write!(out, "{}, line {line}, {}: ", path.display(), kind.name);
    if masked.is_left_out() {
        let notes: Vec<_> = masked.notes.iter().map(|note| note.text()).collect();
        let _ = writeln!(out, "{}\n", notes.join("; "));
        return;
    }
    let _ = write!(out, "{tokens} tokens, {trained} of them trained");
    for note in &masked.notes {
        let _ = write!(out, "; {}", note.text());
    }
    out.push('\n');
    let mut is_open = false;
    for (text, is_trained) in stretches(example) {
        if is_trained != is_open {
            out.push_str(if is_trained { marks.begin } else { marks.end });
            is_open = is_trained;
        }
        spell(text, out);
    }
    if is_open {
        out.push_str(marks.end);
    }
    out.push_str("\n\n");
}

/// The text in stretches that are trained or not. A character that several tokens share is trained if one of them is.
fn stretches(example: &Found) -> Vec<(&str, bool)> {
    let masked = &example.masked;
    let end = masked.encoded.places.iter().map(|place| place.end).max().unwrap_or_default();
    let mut trained = vec![false; end];
    for (place, is_trained) in masked.encoded.places.iter().zip(&masked.trained) {
        if *is_trained {
            trained[place.clone()].fill(true);
        }
    }
    let (mut stretches, mut start) = (Vec::new(), 0);
    for stretch in trained.chunk_by(|a, b| a == b) {
        let range = start..start + stretch.len();
        start = range.end;
        stretches.extend(masked.text.get(range).map(|text| (text, stretch[0])));
    }
    stretches
}

fn spell(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '\n' | '\t' => out.push(character),
            // Control characters, and marks that turn the direction of writing.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
}
