//! SentencePiece's BPE: characters are joined whenever the result is a token, the highest score first.
//!
//! There is no merge table but for vocabularies of another kind: a pair is looked up by its joined text. Unigram models
//! (`t5`), which look for the best segmentation as a whole, are not done here.

use super::bpe::push_characters;
use super::bytes;
use super::merge::{Join, Merger, Symbol};
use super::ranks::Ranks;
use super::spec::VocabularySpec;
use super::vocabulary::Vocabulary;
use super::{ByteTokens, SPACE};
use crate::Result;

/// The model behind `tokenizer.ggml.model` = `llama`.
pub(super) struct Spm {
    bytes: ByteTokens,
    ranks: Option<Ranks>, // instead of scores, where Hugging Face's BPE made the vocabulary
    split_spaces: bool,   // words are merged one by one, each with the space before it
}

struct ByScore<'a>(&'a Vocabulary);

impl Join for ByScore<'_> {
    fn join(&self, text: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        let id = self.0.ordinary_id_of(&text[left.start as usize..right.end as usize])?;
        Some((!ascending(self.0.score(id)), id))
    }
}

/// An integer that grows with the float; -0 equals 0.
fn ascending(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

impl Spm {
    pub(super) fn new(spec: &VocabularySpec, vocabulary: &Vocabulary) -> Result<Self> {
        let bytes = ByteTokens::new(vocabulary, spec.ids.unknown, bytes::name_of);
        let ranks = match &spec.ranked[..] {
            [] => None,
            merges => Some(Ranks::new(merges, vocabulary)?),
        };
        Ok(Self { bytes, ranks, split_spaces: spec.split_spaces })
    }

    /// Appends the tokens of a stretch of text whose spaces are already written `▁`.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.word_length(rest));
            merger.clear();
            push_characters(vocabulary, word, &mut merger);
            match &self.ranks {
                Some(ranks) => merger.run(ranks, word.as_bytes()),
                None => merger.run(&ByScore(vocabulary), word.as_bytes()),
            }
            self.bytes.finish(&merger, word, out)?;
            rest = after;
        }
        Ok(())
    }

    /// Bytes of `text` that are merged together.
    fn word_length(&self, text: &str) -> usize {
        let first = text.chars().next().map_or(0, char::len_utf8);
        let next_space = || text[first..].find(SPACE).map(|at| first + at);
        self.split_spaces.then(next_space).flatten().unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_keep_their_order_as_integers() {
        let sorted = [f32::NEG_INFINITY, -1e9, -2.5, -2.0, -f32::MIN_POSITIVE, 0.0, 1e-9, 3.0, f32::INFINITY];
        assert!(sorted.windows(2).all(|pair| ascending(pair[0]) < ascending(pair[1])));
        assert_eq!(ascending(-0.0), ascending(0.0));
    }
}
