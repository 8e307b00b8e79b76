//! SentencePiece's compiled normalization rules (`precompiled_charsmap`): a trie from byte strings to replacements.
//!
//! Layout (sentencepiece, `normalizer.cc` and `darts.h`): u32 length of the trie in bytes, the trie as a double array of
//! u32, and the replacements, each ended by a zero byte. The trie is a stranger's: every index is checked, and a
//! match that leads nowhere is no match.

use crate::{Error, Result};

/// Bytes of the longest replacement; the compiled NFKC has none over 40.
const LONGEST_REPLACEMENT: usize = 256;

/// The rules.
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharsMap {
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        let malformed = |found: String| {
            let place = "key `tokenizer.ggml.precompiled_charsmap`";
            Error::malformed(place, "a length, a trie of so many bytes, and replacements", found)
        };
        let (length, rest) =
            bytes.split_first_chunk().ok_or_else(|| malformed(format!("{} bytes", bytes.len())))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (trie, replacements) = rest
            .split_at_checked(length)
            .filter(|(trie, _)| !trie.is_empty() && trie.len() % 4 == 0)
            .ok_or_else(|| malformed(format!("a trie of {length} in {} bytes", rest.len())))?;
        let (words, _) = trie.as_chunks();
        let units = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    /// `text` with the longest rule applied at every place, from left to right.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            // A rule ends where a character ends, or it would cut one in two.
            let found =
                self.longest(&text.as_bytes()[at..]).filter(|(len, _)| text.is_char_boundary(at + len));
            let (length, replacement) = match found {
                Some((length, replacement)) => (length, replacement),
                None => {
                    let length = text[at..].chars().next().map_or(1, char::len_utf8);
                    (length, &text.as_bytes()[at..at + length])
                }
            };
            out.extend_from_slice(replacement);
            at += length;
        }
        String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Length and replacement of the longest key that `text` begins with.
    fn longest(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let unit = |at: usize| self.units.get(at).copied();
        let mut node = offset(unit(0)?);
        let mut found = None;
        for (length, &byte) in (1..).zip(text) {
            node ^= usize::from(byte);
            let Some(here) = unit(node).filter(|&here| here & 0x8000_00FF == u32::from(byte)) else { break };
            node ^= offset(here);
            if here >> 8 & 1 == 1 {
                let start = unit(node).map(|leaf| (leaf & 0x7FFF_FFFF) as usize);
                found = start.and_then(|start| self.replacement(start)).map(|text| (length, text)).or(found);
            }
        }
        found
    }

    fn replacement(&self, start: usize) -> Option<&[u8]> {
        let longest = self.replacements.get(start..)?.iter().take(LONGEST_REPLACEMENT);
        let length = longest.clone().position(|&byte| byte == 0).unwrap_or(longest.len());
        self.replacements.get(start..start + length)
    }
}

/// Where the children of a unit lie, relative to it.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_maps_are_errors() {
        for bytes in [&[][..], &[1, 0, 0], &[8, 0, 0, 0, 1, 2, 3, 4], &[3, 0, 0, 0, 1, 2, 3], &[0; 9]] {
            assert!(CharsMap::new(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_trie_leaves_text(units: Vec<u32>, replacements: Vec<u8>, text: String) {
            let map = CharsMap { units, replacements };
            map.apply(&text);
        }
    }
}
