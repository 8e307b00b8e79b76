//! Tokenizer files beside a checkpoint to GGUF's `tokenizer.*` keys.
//!
//! Four kinds: tokenizer.json (byte-level BPE, or SentencePiece-style BPE), tokenizer.model (SentencePiece's protobuf),
//! tiktoken ranks, and vocab.json with merges.txt. Whatever is read is built once by the engine's tokenizer before it is
//! written, so a file that cannot be used is refused here and not by the person who runs it; where there is a
//! tokenizer.json, the ids of a few hundred texts are compared, too.

mod files;
mod frame;
mod json;
mod pipeline;
mod pre;
mod roles;
mod scores;
mod sentence_piece;
mod tiktoken;
mod verify;
mod words;

use files::Files;
use frame::Frame;
use moewe_engine::gguf::{Metadata, Value};
use moewe_engine::tokenizer::{Matching, NORMALIZER_STEPS, SpacePrefix, Tokenizer};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::path::Path;

/// Values of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One row of the vocabulary.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    score: f32, // only SentencePiece has them
    kind: Kind,
}

/// A vocabulary in GGUF's terms.
#[derive(Debug, Default)]
struct Tokens {
    model: &'static str,               // tokenizer.ggml.model
    pre: Option<&'static str>,         // tokenizer.ggml.pre
    tokens: Vec<Option<Token>>,        // by id; a hole is a row that no text leads to
    ids_by_text: HashMap<String, u32>, // of two tokens with one text the first
    merges: Vec<String>,               // "left right"
    add_space_prefix: Option<bool>,
    space_prefix: Option<SpacePrefix>, // where add_space_prefix does not tell enough
    normalizer: Vec<String>,           // the engine's steps with their operands
    charsmap: Vec<u8>,                 // rules of the step `charsmap`
    split_spaces: bool,
    matching: Matching,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    ids: Vec<(&'static str, u32)>, // roles that the file itself assigns: "bos", 1
    ends: Vec<u32>,                // all tokens that end an answer
    frame: Frame,                  // what a tokenizer.json puts around a text
}

impl Tokens {
    /// Whether tokens are spelled as SentencePiece does, spaces as `▁`.
    fn is_sentence_piece(&self) -> bool {
        matches!(self.model, "llama" | "gemma4")
    }

    /// Puts a token at `id`, which must be a row of the embedding.
    fn set(&mut self, id: u64, token: Token, rows: u64) -> Result<()> {
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
    fn add_special(&mut self, id: u64, text: &str, is_control: bool, rows: u64) -> Result<u32> {
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
    fn add_edges(&mut self, id: u32, added: &Json) {
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

    fn id_of(&self, text: &str) -> Option<u32> {
        self.ids_by_text.get(text).copied()
    }

    /// Writes the vocabulary, filled up to one token per row of the embedding.
    fn write(mut self, rows: u64, metadata: &mut Metadata) {
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

/// The `tokenizer.*` keys for the tokenizer files in `folder`, in order; `None` where there are none. `rows` is the
/// number of rows of the embedding: rows without a token get the text `[PAD<id>]`.
///
/// # Errors
/// Files that are broken, of a kind that GGUF or the engine does not know, or whose tokens would not be the original's.
pub fn tokenizer_metadata(folder: &Path, rows: u64) -> Result<Option<Vec<(String, Value)>>> {
    let mut files = Files::read(folder)?;
    roles::settle_prefix(&files.config, files.json.as_mut());
    let mut failure = None;
    for source in files.sources() {
        let found = source.read(&files, rows).and_then(|tokens| finish(&files, tokens, rows));
        match found {
            Ok(metadata) => {
                let entries = metadata.iter().map(|(key, value)| (key.to_owned(), value.clone()));
                return Ok(Some(entries.collect()));
            }
            Err(error) => failure = Some(error), // of the last, which is the original where there is one
        }
    }
    failure.map_or_else(|| files.refuse_unread().map(|()| None), Err)
}

/// How many rows the embedding needs for all tokens of the files in `folder`; 0 without any.
///
/// # Errors
/// As [`tokenizer_metadata`].
pub fn rows_needed(folder: &Path) -> Result<u64> {
    const MOST: u64 = 1 << 24; // what a vocabulary may have
    let files = Files::read(folder)?;
    let Some(source) = files.sources().into_iter().next() else { return Ok(0) };
    let mut tokens = source.read(&files, MOST)?;
    roles::assign(&files, &mut tokens, MOST)?;
    Ok(tokens.tokens.len() as u64)
}

/// Adds roles and templates, and makes sure that the runtime can use what is written, and tokenizes as the original.
fn finish(files: &Files, mut tokens: Tokens, rows: u64) -> Result<Metadata> {
    roles::assign(files, &mut tokens, rows)?;
    let mut metadata = Metadata::new();
    tokens.write(rows, &mut metadata);
    let tokenizer = Tokenizer::from_metadata(&metadata).map_err(|error| error.in_file(&files.folder))?;
    if let (Some(json), Some(tokenizer)) = (&files.json, tokenizer) {
        verify::compare(json, &tokenizer)
            .map_err(|error| error.in_file(files.folder.join("tokenizer.json")))?;
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
