//! The files that tokenizers lie in, and which of them counts.

use super::tokens::Tokens;
use super::{json, sentence_piece, tiktoken, words};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Files of tokenizers that nothing here reads; beside one that is read they do not matter.
const UNREAD: &[&str] = &[
    "tekken.json",
    "tokenizer.model.v1",
    "tokenizer.model.v2",
    "tokenizer.model.v3",
    "tokenizer.model.v7",
    "tokenizer.model.v7m1",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "bpe.codes",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
];

/// Largest tokenizer file that is read.
const LARGEST_FILE: u64 = 256 << 20;

/// All files of a folder that say something of its tokenizer.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    pub(super) json: Option<Json>,     // tokenizer.json
    model: Option<Vec<u8>>,            // tokenizer.model: SentencePiece or ranks
    ranks: Option<(PathBuf, Vec<u8>)>, // a file such as qwen.tiktoken
    words: Option<(Json, String)>,     // vocab.json and merges.txt
    pub(super) config: Json,           // tokenizer_config.json, null without one
    pub(super) added: Json,            // added_tokens.json
    pub(super) map: Json,              // special_tokens_map.json
    pub(super) model_config: Json,     // config.json
    pub(super) generation: Json,       // generation_config.json
}

/// A way to read a vocabulary.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Json,
    Gemma, // a tokenizer.json as llama.cpp reads Gemma 4's: by merges
    SentencePiece,
    Ranks,
    Words,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let json = |name: &str| read_json(&folder.join(name));
        let or_null = |name: &str| Ok::<_, Error>(json(name)?.unwrap_or_default());
        let merges = read_text(&folder.join("merges.txt"))?;
        Ok(Self {
            folder: folder.to_owned(),
            json: json("tokenizer.json")?,
            model: read_file(&folder.join("tokenizer.model"))?,
            ranks: tiktoken_file(folder)?,
            words: json("vocab.json")?.zip(merges),
            config: or_null("tokenizer_config.json")?,
            added: or_null("added_tokens.json")?,
            map: or_null("special_tokens_map.json")?,
            model_config: or_null("config.json")?,
            generation: or_null("generation_config.json")?,
        })
    }

    /// Refuses a folder whose tokenizer is of a kind that is not read.
    pub(super) fn refuse_unread(&self) -> Result<()> {
        let there = |name: &&&str| self.folder.join(name).exists();
        match UNREAD.iter().find(there) {
            Some(name) => Err(Error::unsupported(
                "a tokenizer of a kind that is not read here",
                "let transformers save a tokenizer.json beside it; without this file the model is converted to run \
                 from token ids",
            )
            .in_file(self.folder.join(name))),
            None => Ok(()),
        }
    }

    /// Whether the model beside these files is a Gemma 4.
    fn is_gemma4(&self) -> bool {
        let (outer, text) =
            (&self.model_config["model_type"], &self.model_config["text_config"]["model_type"]);
        [outer, text].iter().any(|kind| matches!(kind.as_str(), Some("gemma4" | "gemma4_text")))
    }

    /// What to try, the best first. SentencePiece's own scores are better than those recovered from merges, so
    /// tokenizer.model goes before a tokenizer.json of that kind, which then tells only what is not in it.
    pub(super) fn sources(&self) -> Vec<Source> {
        let is_ranks = self.model.as_deref().is_some_and(tiktoken::is_ranks);
        let is_spm = self.model.is_some() && !is_ranks;
        let is_byte_level = self.json.as_ref().is_some_and(json::is_byte_level);
        match (&self.json, is_spm) {
            (Some(_), _) if !is_byte_level && self.is_gemma4() => vec![Source::Gemma, Source::Json],
            (Some(_), true) if !is_byte_level => vec![Source::SentencePiece, Source::Json],
            (Some(_), _) => vec![Source::Json],
            (None, true) => vec![Source::SentencePiece],
            (None, false) if is_ranks || self.ranks.is_some() => vec![Source::Ranks],
            (None, false) if self.words.is_some() => vec![Source::Words],
            (None, false) => vec![],
        }
    }
}

impl Source {
    pub(super) fn read(self, files: &Files, rows: u64) -> Result<Tokens> {
        let named = |path: &Path| {
            let path = path.to_owned();
            move |error: Error| error.in_file(path)
        };
        let beside = |name: &str| named(&files.folder.join(name));
        let none = || Error::request("no tokenizer files");
        match self {
            Self::Json | Self::Gemma => {
                let json = files.json.as_ref().ok_or_else(none)?;
                let by_merges = matches!(self, Self::Gemma);
                json::read(json, by_merges, rows).map_err(beside("tokenizer.json"))
            }
            Self::SentencePiece => {
                let model = files.model.as_deref().ok_or_else(none)?;
                let mut tokens = sentence_piece::read(model, rows).map_err(beside("tokenizer.model"))?;
                match &files.json {
                    Some(json) => {
                        json::complete(json, &mut tokens, rows).map_err(beside("tokenizer.json"))?
                    }
                    None => sentence_piece::settle_prefix(&files.config, &mut tokens),
                }
                Ok(tokens)
            }
            Self::Ranks => {
                let own = files.model.as_ref().map(|ranks| (files.folder.join("tokenizer.model"), ranks));
                let other = files.ranks.as_ref().map(|(path, ranks)| (path.clone(), ranks));
                let (path, ranks) = own.or(other).ok_or_else(none)?;
                tiktoken::read(ranks, rows).map_err(named(&path))
            }
            Self::Words => {
                let (vocabulary, merges) = files.words.as_ref().ok_or_else(none)?;
                let class = words::class(&files.config, &files.model_config);
                words::read(vocabulary, merges, class, rows).map_err(beside("vocab.json"))
            }
        }
    }
}

/// A file such as `qwen.tiktoken`.
fn tiktoken_file(folder: &Path) -> Result<Option<(PathBuf, Vec<u8>)>> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, "list", error))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "tiktoken"));
    paths.sort();
    let Some(path) = paths.into_iter().next() else { return Ok(None) };
    Ok(read_file(&path)?.map(|ranks| (path, ranks)))
}

pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|error| Error::malformed("content", "UTF-8", error).in_file(path))
}

/// The bytes of a file; `None` where there is none.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
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

pub(super) fn read_json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = read_file(path)? else { return Ok(None) };
    crate::json::parse(&text).map(Some).map_err(|error| error.in_file(path))
}
