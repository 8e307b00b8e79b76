//! Byte-level BPE: text, split into words, to tokens by ranked merges.
//!
//! The merge table is our own because HF `tokenizers` needs too long to build it (see `ranks.rs`); HF's model is the
//! twin that the tests compare with.

use super::merge::{Join, Merger, Symbol};
use super::pretokenizer::{Alphabet, PreTokenizer, Splitter};
use super::ranks::Ranks;
use super::spec::VocabularySpec;
use super::vocabulary::{NO_TOKEN, Vocabulary};
use super::{ByteTokens, bytes};
use crate::Result;

/// The model behind `tokenizer.ggml.model` = `gpt2` and `gemma4`.
pub(super) struct Bpe {
    splitter: Splitter,
    ranks: Ranks,
    bytes: ByteTokens,
    whole_words: bool,
    alphabet: Alphabet,
}

impl Join for Ranks {
    fn join(&self, _: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        self.get(left.id, right.id)
    }
}

impl Bpe {
    pub(super) fn new(spec: &VocabularySpec, rules: &PreTokenizer, vocabulary: &Vocabulary) -> Result<Self> {
        let spell = |byte| match rules.alphabet {
            Alphabet::Bytes => bytes::spell(&[byte]),
            Alphabet::Characters => bytes::name_of(byte),
        };
        Ok(Self {
            splitter: Splitter::new(rules)?,
            ranks: Ranks::new(&spec.merges, vocabulary)?,
            bytes: ByteTokens::new(vocabulary, spec.ids.unknown, spell),
            whole_words: rules.whole_words,
            alphabet: rules.alphabet,
        })
    }

    /// Whether spaces are written `▁`.
    pub(super) fn escapes_spaces(&self) -> bool {
        self.alphabet == Alphabet::Characters
    }

    /// Appends the tokens of a stretch of text without special tokens.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        for word in self.splitter.split(text) {
            match self.whole_word(vocabulary, word) {
                Some(id) => out.push(id),
                None => self.merge(vocabulary, word, &mut merger, out)?,
            }
        }
        Ok(())
    }

    fn whole_word(&self, vocabulary: &Vocabulary, word: &str) -> Option<u32> {
        match self.alphabet {
            Alphabet::Bytes if self.whole_words => {
                vocabulary.ordinary_id_of(bytes::spell(word.as_bytes()).as_bytes())
            }
            // Gemma 4 has tokens for runs of line breaks that no merge leads to.
            Alphabet::Characters if word.starts_with('\n') => vocabulary.ordinary_id_of(word.as_bytes()),
            _ => None,
        }
    }

    fn merge(
        &self,
        vocabulary: &Vocabulary,
        word: &str,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        merger.clear();
        match self.alphabet {
            Alphabet::Bytes => {
                for (at, &byte) in word.as_bytes().iter().enumerate() {
                    merger.push(at, at + 1, self.bytes.get(byte)?);
                }
            }
            Alphabet::Characters => push_characters(vocabulary, word, merger),
        }
        merger.run(&self.ranks, word.as_bytes());
        self.bytes.finish(merger, word, out)
    }
}

/// Fills `merger` with the characters of `text`.
pub(super) fn push_characters(vocabulary: &Vocabulary, text: &str, merger: &mut Merger) {
    for (start, character) in text.char_indices() {
        let end = start + character.len_utf8();
        merger.push(start, end, vocabulary.ordinary_id_of(&text.as_bytes()[start..end]).unwrap_or(NO_TOKEN));
    }
}
