//! Keeps what a person wrote from passing for control tokens: the characters that such tokens could be made of are
//! replaced by private-use ones, which stand in for them while a template runs or special tokens are looked for.
//!
//! Single characters, not brackets around a text: a template may trim, cut, split and join a text as it likes, and still
//! every character says where it came from. Stand-ins are chosen among those that occur in no text, so that texts with
//! private-use characters of their own survive.

use crate::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};

/// Planes 15 and 16, without the last two of each, which are no characters.
const PRIVATE: [RangeInclusive<char>; 2] = ['\u{f0000}'..='\u{ffffd}', '\u{100000}'..='\u{10fffd}'];

/// Which characters stand for which, and two more that a template may put around what it wants found again.
#[derive(Default)]
pub(super) struct StandIns {
    of: HashMap<char, char>,
    back: HashMap<char, char>,
    marks: Option<(char, char)>,
}

/// A text without stand-ins and marks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Undone {
    pub text: String,
    pub contents: Vec<Range<usize>>, // where stand-ins were
    pub marked: Vec<Range<usize>>,   // what was between marks, be it nothing
}

impl StandIns {
    /// One for each character of `guards`; none occurs in `texts`.
    ///
    /// # Errors
    /// When the texts use up all private-use characters.
    pub(super) fn new<'t>(guards: &[char], texts: impl Iterator<Item = &'t str>) -> Result<Self> {
        let is_private = |c: &char| PRIVATE.iter().any(|range| range.contains(c));
        let taken: HashSet<char> =
            texts.filter(|text| !text.is_ascii()).flat_map(str::chars).filter(is_private).collect();
        let mut free = PRIVATE.into_iter().flatten().filter(|c| !taken.contains(c));
        let mut stand_ins = Self::default();
        for &guard in guards {
            let stand_in = free.next().ok_or_else(used_up)?;
            stand_ins.of.insert(guard, stand_in);
            stand_ins.back.insert(stand_in, guard);
        }
        stand_ins.marks = free.next().zip(free.next());
        Ok(stand_ins)
    }

    /// The marks that begin and end something.
    ///
    /// # Errors
    /// When the texts use up all private-use characters.
    pub(super) fn marks(&self) -> Result<(char, char)> {
        self.marks.ok_or_else(used_up)
    }

    /// Appends `text` with stand-ins to `to`.
    pub(super) fn put(&self, text: &str, to: &mut String) {
        to.extend(text.chars().map(|c| self.of.get(&c).copied().unwrap_or(c)));
    }

    /// Whether stand-ins are in `text`.
    pub(super) fn are_in(&self, text: &str) -> bool {
        !text.is_ascii() && text.chars().any(|c| self.back.contains_key(&c))
    }

    /// `text` with what the stand-ins stand for, and where that is; marks are cut out. Of marks within marks the outer
    /// ones count.
    pub(super) fn undo(&self, text: &str) -> Undone {
        let mut whole = String::with_capacity(text.len());
        let (mut contents, mut marked) = (Vec::<Range<usize>>::new(), Vec::new());
        let (begin, end) = self.marks.unzip();
        let mut open = Vec::new(); // where marked stretches began
        for character in text.chars() {
            let start = whole.len();
            match self.back.get(&character) {
                _ if Some(character) == begin => open.push(start),
                _ if Some(character) == end => {
                    let first = open.pop().filter(|_| open.is_empty());
                    marked.extend(first.map(|first| first..start));
                }
                None => whole.push(character),
                Some(&original) => {
                    whole.push(original);
                    match contents.last_mut().filter(|last| last.end == start) {
                        Some(last) => last.end = whole.len(),
                        None => contents.push(start..whole.len()),
                    }
                }
            }
        }
        Undone { text: whole, contents, marked }
    }
}

fn used_up() -> Error {
    Error::request("the messages hold every private-use character that there is; leave some out")
}

/// Characters of which each of `tokens` holds one, as few as is easy; white space only where there is nothing else,
/// since templates trim it.
pub(super) fn guards<'t>(tokens: impl Iterator<Item = &'t str>) -> Vec<char> {
    let mut chosen: Vec<char> = Vec::new();
    for token in tokens {
        if token.chars().any(|c| chosen.contains(&c)) {
            continue;
        }
        let sign = |c: &char| !c.is_alphanumeric() && !c.is_whitespace() && *c != '|';
        let best = token.chars().find(sign).or_else(|| token.chars().find(|c| !c.is_whitespace()));
        chosen.extend(best.or_else(|| token.chars().next()));
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_guarded_by_few_characters() {
        let tokens = ["<|im_end|>", "<s>", "▁<PRE>", "[INST]", "||", "EOT", " \n", ""];
        assert_eq!(guards(tokens.into_iter()), [' ', '<', 'E', '[', '|']);
    }

    #[test]
    fn stand_ins_come_back_and_never_meet_the_texts_own() {
        let text = "a<\u{f0000}[[\u{f0001}b<";
        let stand_ins = StandIns::new(&['<', '['], [text].into_iter()).unwrap();
        let mut changed = String::new();
        stand_ins.put(text, &mut changed);
        assert!(!changed.contains(['<', '[']) && stand_ins.are_in(&changed) && !stand_ins.are_in(text));
        let undone = stand_ins.undo(&changed);
        assert_eq!((&*undone.text, undone.contents), (text, vec![1..2, 6..8, 13..14]));
        let all: String = PRIVATE.into_iter().flatten().collect();
        assert!(StandIns::new(&['<'], [&*all].into_iter()).is_err());
        let without = StandIns::new(&[], [&*all].into_iter()).unwrap();
        assert!(without.marks().is_err() && without.undo(&all).text == all);
    }

    #[test]
    fn marks_are_cut_out_and_their_places_kept() {
        let stand_ins = StandIns::new(&['<'], ["\u{f0001}"].into_iter()).unwrap();
        let (begin, end) = stand_ins.marks().unwrap();
        let mut text = format!("a{begin}");
        stand_ins.put("\u{f0001}<", &mut text);
        // Marks within marks, with nothing between them, without a beginning and without an end.
        text += &format!("{begin}b{end}c{end}{begin}{end}{end}d{begin}e");
        let undone = stand_ins.undo(&text);
        assert_eq!(undone.text, "a\u{f0001}<bcde");
        assert_eq!(
            undone.contents.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(),
            [(5, 6)]
        );
        assert_eq!(
            undone.marked.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(),
            [(1, 8), (8, 8)]
        );
    }
}
