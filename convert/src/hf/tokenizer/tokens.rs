//! A vocabulary in GGUF's terms, filled by whichever reader found it, and the keys that it becomes.

use moewe_engine::gguf::Metadata;
use moewe_engine::tokenizer::{Matching, NORMALIZER_STEPS, SpacePrefix};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;
use std::collections::HashMap;

/// The tokens around a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) before: Option<u32>,
    pub(super) behind: Option<u32>,
}

/// Values of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One row of the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) score: f32, // only SentencePiece has them
    pub(super) kind: Kind,
}

/// A vocabulary in GGUF's terms.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) model: &'static str,               // tokenizer.ggml.model
    pub(super) pre: Option<&'static str>,         // tokenizer.ggml.pre
    pub(super) tokens: Vec<Option<Token>>,        // by id; a hole is a row that no text leads to
    pub(super) ids_by_text: HashMap<String, u32>, // of two tokens with one text the first
    pub(super) merges: Vec<String>,               // "left right"
    pub(super) add_space_prefix: Option<bool>,
    pub(super) space_prefix: Option<SpacePrefix>, // where add_space_prefix does not tell enough
    pub(super) normalizer: Vec<String>,           // the engine's steps with their operands
    pub(super) charsmap: Vec<u8>,                 // rules of the step `charsmap`
    pub(super) split_spaces: bool,
    pub(super) matching: Matching,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) ids: Vec<(&'static str, u32)>, // roles that the file itself assigns: "bos", 1
    pub(super) ends: Vec<u32>,                // all tokens that end an answer
    pub(super) frame: Frame,                  // what a tokenizer.json puts around a text
}

impl Tokens {
    /// Whether tokens are spelled as SentencePiece does, spaces as `▁`.
    pub(super) fn is_sentence_piece(&self) -> bool {
        matches!(self.model, "llama" | "gemma4")
    }

    /// Puts a token at `id`, which must be a row of the embedding.
    pub(super) fn set(&mut self, id: u64, token: Token, rows: u64) -> Result<()> {
        if id >= rows {
            let place = format!("token {:?}", token.text);
            let expected = format!(
                "an id below {rows}, the rows of the embedding (--add-vocabulary-rows makes rows for such tokens)"
            );
            return Err(Error::malformed(place, expected, id));
        }
        if self.tokens.len() <= id as usize {
            self.tokens.resize(id as usize + 1, None);
        }
        if let Some(old) = &self.tokens[id as usize]
            && self.ids_by_text.get(&old.text) == Some(&(id as u32))
        {
            self.ids_by_text.remove(&old.text);
        }
        self.ids_by_text.entry(token.text.clone()).or_insert(id as u32);
        self.tokens[id as usize] = Some(token);
        Ok(())
    }

    /// Puts a token at `id` that is matched in text as a whole; returns the id that it has then, which is another one
    /// where the vocabulary holds its text already.
    pub(super) fn add_special(&mut self, id: u64, text: &str, is_control: bool, rows: u64) -> Result<u32> {
        let id = self.id_of(text).map_or(id, u64::from);
        let known = self.tokens.get(id as usize).and_then(Option::as_ref);
        let kind = match known.map(|token| token.kind) {
            Some(kind @ (Kind::Unknown | Kind::Byte)) => kind,
            _ if is_control => Kind::Control,
            _ => Kind::UserDefined,
        };
        // It is looked for before spaces are escaped.
        let is_plain = self.is_sentence_piece() && kind == Kind::UserDefined;
        let text = if is_plain { text.replace('▁', " ") } else { text.to_owned() };
        let score = known.map_or(0.0, |token| token.score);
        self.set(id, Token { text, score, kind }, rows)?;
        Ok(id as u32)
    }

    /// Notes what an added token takes besides its text, and where it counts: three of Hugging Face's flags.
    pub(super) fn add_edges(&mut self, id: u32, added: &Json) {
        let matching = &mut self.matching;
        let flags = [
            ("lstrip", &mut matching.lstrip),
            ("rstrip", &mut matching.rstrip),
            ("single_word", &mut matching.single_word),
        ];
        for (flag, ids) in flags {
            if added[flag] == true {
                ids.push(id);
            }
        }
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids_by_text.get(text).copied()
    }

    /// Writes the vocabulary, filled up to one token per row of the embedding.
    pub(super) fn write(mut self, rows: u64, metadata: &mut Metadata) {
        self.tokens.resize(rows as usize, None);
        let hole = |id| Token { text: format!("[PAD{id}]"), score: -1e9, kind: Kind::Unused };
        let tokens: Vec<Token> = self
            .tokens
            .into_iter()
            .enumerate()
            .map(|(id, token)| token.unwrap_or_else(|| hole(id)))
            .collect();
        metadata.set("tokenizer.ggml.model", self.model);
        if let Some(pre) = self.pre {
            metadata.set("tokenizer.ggml.pre", pre);
        }
        if self.model == "llama" {
            let scores: Vec<f32> = tokens.iter().map(|token| token.score).collect();
            metadata.set("tokenizer.ggml.scores", scores);
            if !self.merges.is_empty() {
                tracing::warn!(
                    "scores cannot tell the order of this tokenizer's merges; Möwe keeps it, other programs do not"
                );
                metadata.set("moewe.tokenizer.merges", self.merges);
            }
        } else {
            metadata.set("tokenizer.ggml.merges", self.merges);
        }
        metadata.set(
            "tokenizer.ggml.token_type",
            tokens.iter().map(|token| token.kind as i32).collect::<Vec<i32>>(),
        );
        metadata.set(
            "tokenizer.ggml.tokens",
            tokens.into_iter().map(|token| token.text).collect::<Vec<String>>(),
        );
        let flags = [
            ("bos_token", self.add_bos),
            ("eos_token", self.add_eos),
            ("space_prefix", self.add_space_prefix),
        ];
        for (name, flag) in flags {
            if let Some(flag) = flag {
                metadata.set(format!("tokenizer.ggml.add_{name}"), flag);
            }
        }
        for (role, id) in self.ids {
            metadata.set(format!("tokenizer.ggml.{role}_token_id"), id);
        }
        write_preparation(self.space_prefix, self.normalizer, self.charsmap, metadata);
        if self.split_spaces {
            metadata.set("moewe.tokenizer.split_spaces", true);
        }
        let Matching { lstrip, rstrip, single_word, normalized } = self.matching;
        for (key, ids) in [
            ("moewe.tokenizer.lstrip", lstrip),
            ("moewe.tokenizer.rstrip", rstrip),
            ("moewe.tokenizer.single_word", single_word),
            ("moewe.tokenizer.normalized", normalized),
            ("tokenizer.ggml.eog_token_ids", self.ends),
        ] {
            if !ids.is_empty() {
                metadata.set(key, ids);
            }
        }
    }
}

/// What happens to text before anything is looked for in it.
fn write_preparation(
    prefix: Option<SpacePrefix>,
    normalizer: Vec<String>,
    charsmap: Vec<u8>,
    metadata: &mut Metadata,
) {
    if let Some(prefix) = prefix {
        metadata.set(SpacePrefix::KEY, prefix.name());
    }
    if !charsmap.is_empty() {
        metadata.set("tokenizer.ggml.precompiled_charsmap", charsmap);
    }
    if !normalizer.is_empty() {
        let steps = normalizer.join(" ");
        tracing::warn!("the tokenizer changes text first ({steps}); Möwe does that, other programs may not");
        metadata.set(NORMALIZER_STEPS, normalizer);
    }
}
