//! The merge rules of BPE by the ids of their two sides.
//!
//! HF `tokenizers` keeps the same table but builds it through one owned string per side; with 128,256 tokens and
//! 280,000 rules that alone took longer than the whole tokenizer may take here (210 ms against 150 ms).

use super::vocabulary::{KeyedHash, Vocabulary};
use crate::{Error, Result};
use rayon::prelude::*;

/// One rule: both sides, and the token they make.
type Rule = (u32, u32, u32);

/// An entry of the table; `left` and `right` are `u32::MAX` where it is free.
#[derive(Clone, Copy)]
struct Entry {
    left: u32,
    right: u32,
    rank: u32,
    id: u32,
}

const FREE: Entry = Entry { left: u32::MAX, right: u32::MAX, rank: 0, id: 0 };

/// Rank and result of every joinable pair of tokens.
pub(super) struct Ranks {
    entries: Vec<Entry>, // open addressing, at most three quarters full
    hash: KeyedHash,
}

impl Ranks {
    /// Reads the rules "left right". Every side and every result must be a token; of two equal rules the first counts.
    pub(super) fn new(merges: &[&str], vocabulary: &Vocabulary) -> Result<Self> {
        const PIECE: usize = 4096;
        let pieces: Vec<Vec<Rule>> = merges
            .par_chunks(PIECE)
            .enumerate()
            .map(|(piece, lines)| rules(lines, piece * PIECE, vocabulary))
            .collect::<Result<_>>()?;
        let slots = (merges.len() + merges.len() / 3 + 2).next_power_of_two();
        let mut ranks = Self { entries: vec![FREE; slots], hash: KeyedHash::new() };
        for (rank, (left, right, id)) in (0u32..).zip(pieces.into_iter().flatten()) {
            let slot = ranks.probe(left, right);
            if ranks.entries[slot].left == FREE.left {
                ranks.entries[slot] = Entry { left, right, rank, id };
            }
        }
        Ok(ranks)
    }

    fn probe(&self, left: u32, right: u32) -> usize {
        let mask = self.entries.len() - 1;
        let mut slot = self.hash.of_word(u64::from(left) << 32 | u64::from(right)) as usize & mask;
        loop {
            let entry = &self.entries[slot];
            if entry.left == FREE.left || (entry.left == left && entry.right == right) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Rank and token of the pair, if a rule joins it.
    pub(super) fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let entry = &self.entries[self.probe(left, right)];
        (entry.left != FREE.left).then_some((entry.rank, entry.id))
    }
}

fn rules(lines: &[&str], first: usize, vocabulary: &Vocabulary) -> Result<Vec<Rule>> {
    let mut joined = Vec::new();
    let mut guess = 0;
    let mut rules = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let place = || format!("tokenizer.ggml.merges[{}]", first + index);
        // A token may itself begin with a space, so the separator is looked for after the first byte.
        let (left, right) = separator(line).map(|at| (&line[..at], &line[at + 1..])).ok_or_else(|| {
            Error::malformed(place(), "two tokens with a space between", format!("{line:?}"))
        })?;
        joined.clear();
        joined.extend_from_slice(left.as_bytes());
        joined.extend_from_slice(right.as_bytes());
        let missing =
            |text: &str| Error::malformed(place(), "sides and result that are tokens", format!("{text:?}"));
        let id = |text: &str| vocabulary.id_of(text.as_bytes()).ok_or_else(|| missing(text));
        // Rules usually stand in the order of the tokens they make: two comparisons spare most of the look-ups.
        let made = [guess, guess + 1].into_iter().find(|&id| vocabulary.text(id).as_bytes() == joined);
        let made = made.or_else(|| vocabulary.id_of(&joined)).ok_or_else(|| missing(line))?;
        guess = made;
        rules.push((id(left)?, id(right)?, made));
    }
    Ok(rules)
}

fn separator(line: &str) -> Option<usize> {
    let at = line.bytes().skip(1).position(|byte| byte == b' ')? + 1;
    (at + 1 < line.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::super::spec::VocabularySpec;
    use super::*;

    fn vocabulary() -> Vocabulary {
        let tokens = vec!["a", "b", "ab", "ba", "abba", " ", " b", "ab"];
        Vocabulary::new(&VocabularySpec { tokens, ..Default::default() }).unwrap()
    }

    #[test]
    fn rules_are_found_by_their_sides() {
        let ranks = Ranks::new(&["a b", "b a", "ab ba", "a b", "  b"], &vocabulary()).unwrap();
        let cases = [(0, 1, Some((0, 2))), (1, 0, Some((1, 3))), (2, 3, Some((2, 4))), (5, 1, Some((4, 6)))];
        for (left, right, expected) in cases {
            assert_eq!(ranks.get(left, right), expected, "{left} {right}");
        }
        assert_eq!((ranks.get(0, 0), ranks.get(3, 2), ranks.get(9, 9)), (None, None, None));
    }

    #[test]
    fn rules_about_unknown_tokens_are_refused() {
        for (line, found) in
            [("ab", "\"ab\""), ("a ", "\"a \""), ("", "\"\""), ("a c", "\"a c\""), ("c a", "\"c a\"")]
        {
            let message = Ranks::new(&["a b", line], &vocabulary()).err().map(|error| error.to_string());
            let message = message.unwrap_or_default();
            assert!(message.contains("merges[1]") && message.contains(found), "{line:?}: {message}");
        }
    }
}
