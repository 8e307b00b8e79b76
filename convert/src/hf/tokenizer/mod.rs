//! Tokenizer files beside a checkpoint to GGUF's `tokenizer.*` keys.
//!
//! Three kinds: tokenizer.json (byte-level BPE, or SentencePiece-style BPE), tokenizer.model (SentencePiece's protobuf)
//! and tiktoken ranks. Whatever is read is built once by the engine's tokenizer before it is written, so a file that
//! cannot be used is refused here and not by the person who runs it.

mod json;
mod pre;
mod roles;
mod sentence_piece;
mod tiktoken;

use moewe_engine::gguf::{Metadata, Value};
use moewe_engine::tokenizer::Tokenizer;
use moewe_engine::{Error, Result};
use serde_json::Value as Json;
use std::path::Path;

/// Largest tokenizer file that is read.
const LARGEST_FILE: u64 = 256 << 20;

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
    model: &'static str,        // tokenizer.ggml.model
    pre: Option<&'static str>,  // tokenizer.ggml.pre
    tokens: Vec<Option<Token>>, // by id; a hole is a row that no text leads to
    merges: Vec<String>,        // "left right"
    add_space_prefix: Option<bool>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    ids: Vec<(&'static str, u32)>, // roles that the file itself assigns: "bos", 1
}

impl Tokens {
    /// Puts a token at `id`, which must be a row of the embedding.
    fn set(&mut self, id: u64, token: Token, rows: u64) -> Result<()> {
        if id >= rows {
            let place = format!("token {:?}", token.text);
            return Err(Error::malformed(
                place,
                format!("an id below {rows}, the rows of the embedding"),
                id,
            ));
        }
        if self.tokens.len() <= id as usize {
            self.tokens.resize(id as usize + 1, None);
        }
        self.tokens[id as usize] = Some(token);
        Ok(())
    }

    /// Puts a token at `id` that is matched in text as a whole.
    fn add_special(&mut self, id: u64, text: &str, is_control: bool, rows: u64) -> Result<()> {
        let known = self.tokens.get(id as usize).and_then(Option::as_ref);
        let kind = match known.map(|token| token.kind) {
            Some(kind @ (Kind::Unknown | Kind::Byte)) => kind,
            _ if is_control => Kind::Control,
            _ => Kind::UserDefined,
        };
        // It is looked for before spaces are escaped.
        let is_plain = self.model == "llama" && kind == Kind::UserDefined;
        let text = if is_plain { text.replace('▁', " ") } else { text.to_owned() };
        let score = known.map_or(0.0, |token| token.score);
        self.set(id, Token { text, score, kind }, rows)
    }

    fn id_of(&self, text: &str) -> Option<u32> {
        let is_it = |token: &Option<Token>| token.as_ref().is_some_and(|token| token.text == text);
        self.tokens.iter().position(is_it).map(|id| id as u32)
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
            metadata
                .set("tokenizer.ggml.scores", tokens.iter().map(|token| token.score).collect::<Vec<f32>>());
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
    }
}

/// The `tokenizer.*` keys for the tokenizer files in `folder`, in order; `None` where there are none. `rows` is the
/// number of rows of the embedding: rows without a token get the text `[PAD<id>]`.
///
/// # Errors
/// Files that are broken, or of a kind that GGUF or the engine does not know.
pub fn tokenizer_metadata(folder: &Path, rows: u64) -> Result<Option<Vec<(String, Value)>>> {
    let Some(mut tokens) = read_tokens(folder, rows)? else { return Ok(None) };
    roles::assign(folder, &mut tokens, rows)?;
    let mut metadata = Metadata::new();
    tokens.write(rows, &mut metadata);
    roles::set_chat_templates(folder, &mut metadata)?;
    Tokenizer::from_metadata(&metadata).map_err(|error| error.in_file(folder))?;
    Ok(Some(metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()))
}

/// The vocabulary of the first file that there is. SentencePiece's own scores are better than those recovered from
/// merges, so tokenizer.model goes before a tokenizer.json of that kind, which only adds its special tokens.
fn read_tokens(folder: &Path, rows: u64) -> Result<Option<Tokens>> {
    let path = |name: &str| folder.join(name);
    let json = read_json(&path("tokenizer.json"))?;
    let in_file = |name: &str| {
        let path = path(name);
        move |error: Error| error.in_file(path)
    };
    let model = read_file(&path("tokenizer.model"))?;
    let is_ranks = model.as_deref().is_some_and(tiktoken::is_ranks);
    if let Some(json) = json.as_ref().filter(|json| model.is_none() || is_ranks || json::is_byte_level(json))
    {
        return json::read(json, rows).map(Some).map_err(in_file("tokenizer.json"));
    }
    let mut tokens = match model {
        Some(ranks) if is_ranks => tiktoken::read(&ranks, rows).map_err(in_file("tokenizer.model"))?,
        Some(model) => sentence_piece::read(&model, rows).map_err(in_file("tokenizer.model"))?,
        None => match tiktoken_file(folder)? {
            Some((path, ranks)) => tiktoken::read(&ranks, rows).map_err(|error| error.in_file(path))?,
            None => return Ok(None),
        },
    };
    if let Some(json) = json {
        json::add_special(&json, &mut tokens, rows).map_err(in_file("tokenizer.json"))?;
    }
    Ok(Some(tokens))
}

/// A file such as `qwen.tiktoken`.
fn tiktoken_file(folder: &Path) -> Result<Option<(std::path::PathBuf, Vec<u8>)>> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, "list", error))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "tiktoken"));
    paths.sort();
    let Some(path) = paths.into_iter().next() else { return Ok(None) };
    Ok(read_file(&path)?.map(|ranks| (path, ranks)))
}

/// The bytes of a file; `None` where there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let length = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "look at", error)),
    };
    if length > LARGEST_FILE {
        let found = format!("{length} bytes");
        return Err(Error::malformed("size", "a tokenizer file of at most 256 MiB", found).in_file(path));
    }
    std::fs::read(path).map(Some).map_err(|error| Error::io(path, "read", error))
}

fn read_json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = read_file(path)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|error| Error::malformed("content", "JSON", error).in_file(path))
}

#[cfg(test)]
mod tests;
