//! The tokenizer of a run, as far as training needs one: prompts and samples, and how many bytes tokens stand for.

use crate::{Error, Result};
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// A tokenizer, or nothing where the data came as ids alone.
pub struct Text {
    tokenizer: Option<(PathBuf, Tokenizer)>,
    bytes: Option<Vec<u32>>, // (vocabulary), where every token stands for certain bytes
}

impl Text {
    /// Without a tokenizer: no samples, no bits per byte.
    pub fn none() -> Self {
        Self { tokenizer: None, bytes: None }
    }

    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// It is none.
    pub fn open(path: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_file(path)
            .map_err(|e| Error::malformed(path, "", "a tokenizer of Hugging Face", e))?;
        let bytes = byte_lengths(path, &tokenizer)?;
        Ok(Self { tokenizer: Some((path.to_owned(), tokenizer)), bytes })
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.tokenizer.as_ref().map(|(path, _)| path.as_path())
    }

    /// Number of ids: one more than the highest.
    pub fn vocabulary(&self) -> Option<usize> {
        let highest = self.tokenizer.as_ref()?.1.get_vocab(true).into_values().max()?;
        Some(highest as usize + 1)
    }

    /// Bytes of text that `tokens` stand for, special tokens for none.
    pub fn bytes_of(&self, tokens: &[u32]) -> Option<u64> {
        let bytes = self.bytes.as_ref()?;
        tokens.iter().map(|&token| bytes.get(token as usize).map(|&n| u64::from(n))).sum()
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// Text that the tokenizer cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Some((path, tokenizer)) = &self.tokenizer else { return Ok(vec![]) };
        let encoding = tokenizer.encode_fast(text, false);
        Ok(encoding
            .map_err(|e| Error::malformed(path, "encode", "a token for every text", e))?
            .get_ids()
            .to_vec())
    }

    /// The text of `tokens`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let decode = |(_, tokenizer): &(PathBuf, Tokenizer)| tokenizer.decode(tokens, false).ok();
        self.tokenizer.as_ref().and_then(decode).unwrap_or_default()
    }
}

/// Bytes of each id of a byte-level tokenizer, whose tokens spell every byte as one character.
fn byte_lengths(path: &Path, tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::malformed(path, "", "JSON", e))?;
    if json["decoder"]["type"] != "ByteLevel" {
        return Ok(None);
    }
    let vocabulary = tokenizer.get_vocab(true);
    let special = tokenizer.get_added_tokens_decoder();
    let mut bytes = vec![0; vocabulary.values().max().map_or(0, |&id| id as usize + 1)];
    for (token, id) in vocabulary {
        if !special.get(&id).is_some_and(|token| token.special) {
            bytes[id as usize] = token.chars().count() as u32;
        }
    }
    Ok(Some(bytes))
}
