//! What is kept of conversations that ended: their tokens and the pages that hold them, for who begins alike.

use moewe_engine::session::Sequence;

/// More than these are not looked through.
const MOST: usize = 64;

/// A conversation that ended.
struct Prefix {
    tokens: Vec<u32>,
    sequence: Sequence,
}

/// The latest last.
#[derive(Default)]
pub(super) struct Prefixes(Vec<Prefix>);

impl Prefixes {
    /// Keeps a sequence that holds these tokens, in the place of those that it begins with.
    pub(super) fn keep(&mut self, tokens: Vec<u32>, sequence: Sequence) {
        if self.0.iter().any(|prefix| prefix.tokens.starts_with(&tokens)) {
            return;
        }
        self.0.retain(|prefix| !tokens.starts_with(&prefix.tokens));
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Prefix { tokens, sequence });
    }

    /// The sequence that can begin the most of what is in common by this count, how much it can, and how much is in
    /// common; it counts as used.
    pub(super) fn longest(
        &mut self,
        common: impl Fn(&[u32]) -> usize,
        usable: impl Fn(usize) -> usize,
    ) -> Option<(usize, usize, &Sequence)> {
        let lengths = self.0.iter().map(|prefix| {
            let common = common(&prefix.tokens);
            (usable(prefix.sequence.reach(common)), common)
        });
        let ((length, common), at) = lengths.zip(0..).max().filter(|((_, common), _)| *common > 0)?;
        self.0[at..].rotate_left(1);
        self.0.last().map(|prefix| (length, common, &prefix.sequence))
    }

    /// Forgets what was not used for the longest time; `false` where there is nothing left.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let is_any = !self.0.is_empty();
        self.0.drain(..usize::from(is_any));
        is_any
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
