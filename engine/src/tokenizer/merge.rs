//! The merge loop of BPE and SentencePiece: join the best neighbouring pair until no pair is left.
//!
//! It does not know what makes a pair joinable: that is [`Join`]. A heap over a linked list keeps a text of n
//! symbols at n log n whatever the vocabulary says, because every join removes one symbol and adds two candidates.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// End of the list.
const NOWHERE: u32 = u32::MAX;

/// A piece of the text that is, or may become, a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub(super) start: u32, // byte offsets in the text
    pub(super) end: u32,
    pub(super) id: u32, // NO_TOKEN where the piece is not in the vocabulary
    before: u32,        // neighbours still in the list
    after: u32,
}

/// Decides which neighbours may be joined.
pub(super) trait Join {
    /// Priority (lowest is joined first, then the leftmost) and token of the joined pair.
    fn join(&self, text: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)>;
}

/// A possible join: priority, left symbol, right symbol, end of the right symbol when it was found, token.
type Candidate = Reverse<(u32, u32, u32, u32, u32)>;

/// Buffers that one encoding reuses from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
}

impl Merger {
    /// Forgets the last word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.candidates.clear();
    }

    /// Appends a symbol to the word; `start..end` must follow the last one.
    pub(super) fn push(&mut self, start: usize, end: usize, id: u32) {
        let index = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.after = index;
        }
        let before = index.checked_sub(1).unwrap_or(NOWHERE);
        self.symbols.push(Symbol { start: start as u32, end: end as u32, id, before, after: NOWHERE });
    }

    /// Joins all that can be joined.
    pub(super) fn run(&mut self, join: &impl Join, text: &[u8]) {
        for right in 1..self.symbols.len() as u32 {
            self.consider(join, text, right - 1, right);
        }
        while let Some(Reverse((_, left, right, end, id))) = self.candidates.pop() {
            let (before, after) = (self.symbols[left as usize], self.symbols[right as usize]);
            // A symbol that was joined away is empty; one that has grown since ends elsewhere.
            if before.start == before.end || before.after != right || after.end != end {
                continue;
            }
            self.join(left, right, id);
            self.consider(join, text, self.symbols[left as usize].before, left);
            self.consider(join, text, left, self.symbols[left as usize].after);
        }
    }

    fn join(&mut self, left: u32, right: u32, id: u32) {
        let Symbol { end, after, .. } = self.symbols[right as usize];
        self.symbols[right as usize].start = end;
        if after != NOWHERE {
            self.symbols[after as usize].before = left;
        }
        let kept = &mut self.symbols[left as usize];
        (kept.end, kept.after, kept.id) = (end, after, id);
    }

    fn consider(&mut self, join: &impl Join, text: &[u8], left: u32, right: u32) {
        if left == NOWHERE || right == NOWHERE {
            return;
        }
        let (first, second) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((priority, id)) = join.join(text, first, second) {
            self.candidates.push(Reverse((priority, left, right, second.end, id)));
        }
    }

    /// What is left, in the order of the text.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.start < symbol.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joins letters in alphabetical order of the pair's first letter, up to a length.
    struct Alphabet(usize);

    impl Join for Alphabet {
        fn join(&self, text: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
            let length = (right.end - left.start) as usize;
            (length <= self.0).then(|| (u32::from(text[left.start as usize]), length as u32))
        }
    }

    fn pieces(text: &str, limit: usize) -> Vec<&str> {
        let mut merger = Merger::default();
        (0..text.len()).for_each(|at| merger.push(at, at + 1, 1));
        merger.run(&Alphabet(limit), text.as_bytes());
        merger.symbols().map(|symbol| &text[symbol.start as usize..symbol.end as usize]).collect()
    }

    #[test]
    fn best_pair_first_then_leftmost() {
        let cases: &[(&str, usize, &[&str])] = &[
            ("", 2, &[]),
            ("b", 2, &["b"]),
            ("bab", 2, &["b", "ab"]),
            ("aaaaa", 2, &["aa", "aa", "a"]),
            ("cbabc", 3, &["cb", "abc"]),
            ("abcdef", 6, &["abcdef"]),
        ];
        for (text, limit, expected) in cases {
            assert_eq!(&pieces(text, *limit), expected, "{text}");
        }
    }

    #[test]
    fn a_long_run_is_joined_quickly() {
        assert_eq!(pieces(&"a".repeat(300_000), 1 << 20).len(), 1);
    }
}
