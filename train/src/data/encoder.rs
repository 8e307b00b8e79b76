//! Text to token ids, fast enough for corpora.
//!
//! Any tokenizer.json works through the crate `tokenizers`. Where its rules are those of [`PRE_TOKENIZERS`], words are
//! found by the engine's splitter and looked up in a cache, and the crate only sees words that are new: the same ids
//! several times as fast. Special tokens that stand in a text are read as ordinary text, so that no document can
//! pass for the end of one.

use super::tokenizer::{BYTE_LEVEL_PATTERN, PRE_TOKENIZERS};
use crate::{Error, Result};
use moewe_engine::tokenizer::bytes::CHARACTERS;
use moewe_engine::tokenizer::pretokenizer::{PreTokenizer, Splitter};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tokenizers::{Model, Tokenizer};

/// Longest tokenizer.json that is read.
const LARGEST_FILE: u64 = 256 << 20;
/// Words a cache may hold, and the bytes of the longest of them: frequent words come early and are short.
const CACHED_WORDS: usize = 1 << 18;
const LONGEST_CACHED: usize = 48;
/// What ends a document where tokenizer_config.json says nothing.
const USUAL_ENDS: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

/// A tokenizer for training data.
pub struct Encoder {
    tokenizer: Tokenizer,
    splitter: Option<Splitter>, // for the rules that are known
    caches: Mutex<Vec<Cache>>,  // those not in use
    eos: u32,
    hash: String, // BLAKE3 of the file
    path: PathBuf,
}

/// Words and their ids.
#[derive(Default)]
struct Cache {
    words: HashMap<Box<str>, (u32, u32)>, // where in `ids`, and how many
    ids: Vec<u32>,
}

impl Encoder {
    /// Reads tokenizer.json and, beside it, tokenizer_config.json for the token that ends a document; `eos` names
    /// another one.
    ///
    /// # Errors
    /// Files that are broken, and an end that is no token.
    pub fn open(path: &Path, eos: Option<&str>) -> Result<Self> {
        let bytes = read(path)?;
        let json: Json =
            serde_json::from_slice(&bytes).map_err(|error| Error::malformed(path, "", "JSON", error))?;
        let tokenizer = Tokenizer::from_bytes(&bytes);
        let mut tokenizer =
            tokenizer.map_err(|error| Error::malformed(path, "", "a tokenizer of Hugging Face", error))?;
        tokenizer.set_encode_special_tokens(true);
        Ok(Self {
            eos: end(path, &tokenizer, eos)?,
            splitter: rules(&json).map(Splitter::new).transpose()?,
            caches: Mutex::default(),
            hash: blake3::hash(&bytes).to_hex().to_string(),
            path: path.to_owned(),
            tokenizer,
        })
    }

    /// The id after each document.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Number of ids, special ones included: one more than the highest.
    pub fn vocabulary_size(&self) -> usize {
        let highest = self.tokenizer.get_vocab(true).into_values().max();
        highest.map_or(0, |id| id as usize + 1)
    }

    /// BLAKE3 of tokenizer.json, in hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The ids of `text`, without any that begin or end it.
    ///
    /// # Errors
    /// Text that the tokenizer cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Some(splitter) = &self.splitter else {
            let encoded = self.tokenizer.encode_fast(text, false);
            return encoded.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| self.refused(error));
        };
        let mut cache = self.caches.lock().ok().and_then(|mut caches| caches.pop()).unwrap_or_default();
        let mut ids = Vec::with_capacity(text.len() / 3);
        for word in splitter.split(text) {
            self.encode_word(word, &mut cache, &mut ids)?;
        }
        if let Ok(mut caches) = self.caches.lock() {
            caches.push(cache);
        }
        Ok(ids)
    }

    fn encode_word(&self, word: &str, cache: &mut Cache, ids: &mut Vec<u32>) -> Result<()> {
        if let Some(&(start, length)) = cache.words.get(word) {
            ids.extend_from_slice(&cache.ids[start as usize..][..length as usize]);
            return Ok(());
        }
        let spelled: String = word.bytes().map(|byte| CHARACTERS[usize::from(byte)]).collect();
        let tokens = self.tokenizer.get_model().tokenize(&spelled).map_err(|error| self.refused(error))?;
        ids.extend(tokens.iter().map(|token| token.id));
        if word.len() <= LONGEST_CACHED && cache.words.len() < CACHED_WORDS {
            let start = cache.ids.len() as u32;
            cache.ids.extend(tokens.iter().map(|token| token.id));
            cache.words.insert(word.into(), (start, tokens.len() as u32));
        }
        Ok(())
    }

    fn refused(&self, error: impl ToString) -> Error {
        Error::malformed(&self.path, "encode", "a token for every text", error)
    }

    /// Whether texts may be cut by [`pieces`](super::pieces::pieces) without other ids coming out.
    pub fn may_cut(&self) -> bool {
        self.splitter.is_some()
    }
}

/// A file of a tokenizer, whose length is bounded.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let length = path.metadata().map_err(|error| Error::io(path, "open", error))?.len();
    if length > LARGEST_FILE {
        let found = format!("{length} bytes");
        return Err(Error::malformed(path, "size", "a tokenizer file of at most 256 MiB", found));
    }
    std::fs::read(path).map_err(|error| Error::io(path, "read", error))
}

/// The engine's rules for a tokenizer whose words they find: byte-level, nothing normalised, no token that is matched
/// in text as a whole.
fn rules(json: &Json) -> Option<&'static PreTokenizer> {
    let model = &json["model"];
    let is_plain = model["type"] == "BPE" && model["dropout"].is_null() && json["normalizer"].is_null();
    let mut added = json["added_tokens"].as_array().into_iter().flatten();
    if !is_plain || added.any(|token| token["special"] != true) {
        return None;
    }
    let pattern = pattern(&json["pre_tokenizer"])?;
    let known = PRE_TOKENIZERS.iter().find(|known| known.pattern == pattern)?;
    PreTokenizer::by_name(known.gguf_name).ok()
}

/// The expression that alone splits the text, in either of the two ways to write it.
fn pattern(pre_tokenizer: &Json) -> Option<&str> {
    let is_bytes = |part: &Json| part["type"] == "ByteLevel" && part["add_prefix_space"] == false;
    if is_bytes(pre_tokenizer) && pre_tokenizer["use_regex"] != false {
        return Some(BYTE_LEVEL_PATTERN);
    }
    let [split, bytes] = &pre_tokenizer["pretokenizers"].as_array()?[..] else { return None };
    let is_split = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] != true;
    let is_known = is_split && is_bytes(bytes) && bytes["use_regex"] == false;
    split["pattern"]["Regex"].as_str().filter(|_| is_known)
}

/// The id of the token that ends a document.
fn end(path: &Path, tokenizer: &Tokenizer, wanted: Option<&str>) -> Result<u32> {
    let id = |text: &str| tokenizer.token_to_id(text);
    let config = path.with_file_name("tokenizer_config.json");
    let named = match (wanted, config.is_file()) {
        (Some(text), _) => Some(text.to_owned()),
        (None, true) => {
            let json: Json = serde_json::from_slice(&read(&config)?)
                .map_err(|error| Error::malformed(&config, "", "JSON", error))?;
            let token = &json["eos_token"];
            token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
        }
        (None, false) => None,
    };
    match named {
        Some(text) => {
            id(&text).ok_or_else(|| Error::malformed(path, "the end of a document", "a token", text))
        }
        None => USUAL_ENDS.iter().find_map(|text| id(text)).ok_or_else(|| {
            let expected = "an eos_token in tokenizer_config.json (or --eos TOKEN)";
            Error::malformed(path, "the end of a document", expected, "none")
        }),
    }
}
