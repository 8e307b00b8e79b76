//! The token list: texts, types, scores, and the way back from a text to its id.
//!
//! Everything here was checked once when it was built, so the rest of the tokenizer indexes without fear. It knows
//! nothing about merging or splitting. The index is our own open-addressing table because building it is most of
//! what opening a 128,256-token vocabulary costs.

use super::bytes::byte_named;
use super::spec::VocabularySpec;
use crate::{Error, Result};
use std::hash::{BuildHasher, Hasher, RandomState};

/// No such token; larger than any id because a vocabulary holds fewer than 2^31 tokens.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Longest text that one token may have. Real vocabularies stay under 512 bytes.
const LONGEST_TEXT: usize = 1 << 16;

/// What a token is for: the values of GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Ordinary text.
    Normal,
    /// Stands for whatever has no token.
    Unknown,
    /// Steers the model (BOS, end of turn); matched in text only on request, never shown.
    Control,
    /// Ordinary text that is matched before any splitting or merging.
    UserDefined,
    /// A row of the embedding without a meaning.
    Unused,
    /// One raw byte, written `<0xAB>`.
    Byte,
}

impl TokenType {
    fn from_gguf(value: i32) -> Option<Self> {
        Some(match value {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Byte strings one after another: one allocation instead of one per token.
#[derive(Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>, // end of text i in `bytes`; it begins where text i - 1 ends
}

impl Texts {
    pub(super) fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Appends one text. The caller has made sure that all of them together stay under 4 GiB.
    pub(super) fn push(&mut self, text: impl IntoIterator<Item = u8>) {
        self.bytes.extend(text);
        self.ends.push(self.bytes.len() as u32);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }
}

/// A keyed hash that a stranger's file cannot aim collisions at.
#[derive(Clone, Copy)]
pub(super) struct KeyedHash(u64);

impl KeyedHash {
    pub(super) fn new() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    pub(super) fn of_word(self, word: u64) -> u64 {
        fold(word ^ self.0, 0x9E37_79B9_7F4A_7C15)
    }

    pub(super) fn of_bytes(self, bytes: &[u8]) -> u64 {
        let mut hash = self.0 ^ bytes.len() as u64;
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            hash =
                fold(hash ^ u64::from_le_bytes(word.try_into().unwrap_or_default()), 0x9E37_79B9_7F4A_7C15);
        }
        let tail = words.remainder().iter().fold(0, |tail, &byte| tail << 8 | u64::from(byte));
        fold(hash ^ tail, 0xD6E8_FEB8_6659_FD93)
    }
}

/// Both halves of the 128-bit product: every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The checked token list.
pub(super) struct Vocabulary {
    texts: Texts,
    types: Vec<TokenType>,
    scores: Vec<f32>, // empty when the file has none
    slots: Vec<u64>,  // hash tag << 32 | id + 1; 0 = free; at most three quarters full
    hash: KeyedHash,
    longest: usize, // bytes of the longest text
}

impl Vocabulary {
    /// Checks the lists of `spec` against each other. Of two tokens with one text the lower id is found by text.
    pub(super) fn new(spec: &VocabularySpec) -> Result<Self> {
        let count = spec.tokens.len();
        let longest = check_texts(&spec.tokens)?;
        check_length("tokenizer.ggml.scores", spec.scores.len(), count)?;
        check_length("tokenizer.ggml.token_type", spec.types.len(), count)?;
        let mut texts = Texts::with_capacity(count, spec.tokens.iter().map(|text| text.len()).sum());
        spec.tokens.iter().for_each(|text| texts.push(text.bytes()));
        let types = if spec.types.is_empty() { guess_types(&spec.tokens) } else { types(&spec.types)? };
        let slots = vec![0; (count + count / 2).next_power_of_two().max(2)];
        let scores = spec.scores.clone();
        let mut vocabulary = Self { texts, types, scores, slots, hash: KeyedHash::new(), longest };
        (0..count as u32).for_each(|id| vocabulary.index(id));
        Ok(vocabulary)
    }

    fn index(&mut self, id: u32) {
        let text = self.texts.get(id as usize);
        if text.is_empty() {
            return;
        }
        let (slot, found) = self.probe(text);
        if found.is_none() {
            self.slots[slot] = self.hash.of_bytes(text) & 0xFFFF_FFFF_0000_0000 | u64::from(id + 1);
        }
    }

    /// The slot where `text` is or would be, and its id.
    fn probe(&self, text: &[u8]) -> (usize, Option<u32>) {
        let hash = self.hash.of_bytes(text);
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let entry = self.slots[slot];
            if entry == 0 {
                return (slot, None);
            }
            let id = entry as u32 - 1;
            if entry >> 32 == hash >> 32 && self.texts.get(id as usize) == text {
                return (slot, Some(id));
            }
            slot = (slot + 1) & mask;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn id_of(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest { None } else { self.probe(text).1 }
    }

    /// Like [`Vocabulary::id_of`], but never a token that steers the model: those are not made of ordinary text.
    pub(super) fn ordinary_id_of(&self, text: &[u8]) -> Option<u32> {
        let steers = |id: &u32| matches!(self.types[*id as usize], TokenType::Control | TokenType::Unknown);
        self.id_of(text).filter(|id| !steers(id))
    }

    /// The text as it stands in the file; empty for an id outside the vocabulary.
    pub(super) fn text(&self, id: u32) -> &str {
        if (id as usize) < self.len() {
            str::from_utf8(self.texts.get(id as usize)).unwrap_or_default()
        } else {
            ""
        }
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenType) {
        self.types[id as usize] = kind;
    }

    /// The merge score, 0 where the file has none.
    pub(super) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// Ids and texts of all tokens of `kind`.
    pub(super) fn of_kind(&self, kind: TokenType) -> impl Iterator<Item = (u32, &str)> {
        (0u32..).zip(&self.types).filter(move |entry| *entry.1 == kind).map(|(id, _)| (id, self.text(id)))
    }
}

fn check_texts(tokens: &[&str]) -> Result<usize> {
    let place = "tokenizer.ggml.tokens";
    if tokens.is_empty() || tokens.len() > i32::MAX as usize {
        return Err(Error::malformed(place, "1 to 2147483647 tokens", tokens.len()));
    }
    let longest = tokens.iter().map(|text| text.len()).max().unwrap_or(0);
    if longest > LONGEST_TEXT {
        return Err(Error::malformed(place, format!("texts of at most {LONGEST_TEXT} bytes"), longest));
    }
    let total: usize = tokens.iter().map(|text| text.len()).sum();
    if total > u32::MAX as usize / 4 {
        return Err(Error::malformed(place, "at most 1 GiB of text", format!("{total} bytes")));
    }
    Ok(longest)
}

fn check_length(place: &str, length: usize, count: usize) -> Result<()> {
    if length == 0 || length == count {
        return Ok(());
    }
    Err(Error::malformed(place, format!("{count} elements, one per token"), length))
}

/// Types for a file that gives none: bytes show themselves by their names.
fn guess_types(tokens: &[&str]) -> Vec<TokenType> {
    let guess = |text: &&str| byte_named(text).map_or(TokenType::Normal, |_| TokenType::Byte);
    tokens.iter().map(guess).collect()
}

fn types(values: &[i32]) -> Result<Vec<TokenType>> {
    let convert = |(id, &value): (usize, &i32)| {
        TokenType::from_gguf(value).ok_or_else(|| {
            Error::malformed(format!("tokenizer.ggml.token_type[{id}]"), "a type from 0 to 6", value)
        })
    };
    values.iter().enumerate().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>(tokens: &[&'a str]) -> VocabularySpec<'a> {
        VocabularySpec { model: "llama", tokens: tokens.to_vec(), ..Default::default() }
    }

    #[test]
    fn texts_lead_back_to_their_first_id() {
        let numbers: Vec<String> = (0..5000).map(|n| format!("token{n}")).collect();
        let mut texts: Vec<&str> = numbers.iter().map(String::as_str).collect();
        texts.extend(["", "token7", "ü", "\0"]);
        let vocabulary = Vocabulary::new(&spec(&texts)).unwrap();
        for (id, text) in numbers.iter().enumerate() {
            assert_eq!(vocabulary.id_of(text.as_bytes()), Some(id as u32));
        }
        assert_eq!(vocabulary.id_of("ü".as_bytes()), Some(5002));
        assert_eq!(vocabulary.id_of(b"\0"), Some(5003));
        for absent in ["", "token5000", "toke", "\0\0", "a text longer than any token here"] {
            assert_eq!(vocabulary.id_of(absent.as_bytes()), None, "{absent:?}");
        }
        assert_eq!(
            (vocabulary.text(5001), vocabulary.text(5004), vocabulary.kind(5004)),
            ("token7", "", None)
        );
    }

    #[test]
    fn hashes_see_every_byte() {
        let hash = KeyedHash::new();
        let base = [0u8; 19];
        for place in 0..base.len() {
            let mut changed = base;
            changed[place] = 1;
            assert_ne!(hash.of_bytes(&base), hash.of_bytes(&changed), "byte {place}");
        }
        assert_ne!(hash.of_bytes(&base[..8]), hash.of_bytes(&base[..9]));
    }

    #[test]
    fn lists_that_disagree_are_refused() {
        let long = "x".repeat(LONGEST_TEXT + 1);
        let bad = [
            (spec(&[]), "1 to 2147483647 tokens"),
            (spec(&[&long]), "at most 65536 bytes"),
            (VocabularySpec { scores: vec![0.0; 3], ..spec(&["a", "b"]) }, "2 elements, one per token"),
            (VocabularySpec { types: vec![1], ..spec(&["a", "b"]) }, "2 elements, one per token"),
            (VocabularySpec { types: vec![1, 7], ..spec(&["a", "b"]) }, "token_type[1]"),
            (VocabularySpec { types: vec![1, -1], ..spec(&["a", "b"]) }, "found -1"),
        ];
        for (spec, expected) in bad {
            let message = Vocabulary::new(&spec).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
