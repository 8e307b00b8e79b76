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

/// Which characters stand for which.
#[derive(Default)]
pub(super) struct StandIns {
    of: HashMap<char, char>,
    back: HashMap<char, char>,
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
            let message = "the messages hold every private-use character that there is; leave some out";
            let stand_in = free.next().ok_or_else(|| Error::request(message))?;
            stand_ins.of.insert(guard, stand_in);
            stand_ins.back.insert(stand_in, guard);
        }
        Ok(stand_ins)
    }

    /// Appends `text` with stand-ins to `to`.
    pub(super) fn put(&self, text: &str, to: &mut String) {
        to.extend(text.chars().map(|c| self.of.get(&c).copied().unwrap_or(c)));
    }

    /// Whether stand-ins are in `text`.
    pub(super) fn are_in(&self, text: &str) -> bool {
        !text.is_ascii() && text.chars().any(|c| self.back.contains_key(&c))
    }

    /// `text` with what the stand-ins stand for, and where that is.
    pub(super) fn undo(&self, text: &str) -> (String, Vec<Range<usize>>) {
        let (mut whole, mut places) = (String::with_capacity(text.len()), Vec::<Range<usize>>::new());
        for character in text.chars() {
            let start = whole.len();
            match self.back.get(&character) {
                None => whole.push(character),
                Some(&original) => {
                    whole.push(original);
                    match places.last_mut().filter(|last| last.end == start) {
                        Some(last) => last.end = whole.len(),
                        None => places.push(start..whole.len()),
                    }
                }
            }
        }
        (whole, places)
    }
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
        assert_eq!(stand_ins.undo(&changed), (text.to_owned(), vec![1..2, 6..8, 13..14]));
        let all: String = PRIVATE.into_iter().flatten().collect();
        assert!(StandIns::new(&['<'], [&*all].into_iter()).is_err());
    }
}
