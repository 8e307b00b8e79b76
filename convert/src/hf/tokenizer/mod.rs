//! Tokenizer files beside a checkpoint to GGUF's `tokenizer.*` keys.
//!
//! Four kinds: tokenizer.json (byte-level BPE, or SentencePiece-style BPE), tokenizer.model (SentencePiece's protobuf),
//! tiktoken ranks, and vocab.json with merges.txt. Whatever is read is built once by the engine's tokenizer before it is
//! written, so a file that cannot be used is refused here and not by the person who runs it; where there is a
//! tokenizer.json, the ids of a few hundred texts are compared, too.

mod files;
mod frame;
mod json;
mod parts;
mod pipeline;
mod pre;
mod roles;
mod scores;
mod sentence_piece;
mod tiktoken;
mod tokens;
mod verify;
mod words;

use files::Files;
use moewe_engine::Result;
use moewe_engine::gguf::{Metadata, Value};
use moewe_engine::tokenizer::Tokenizer;
use std::path::Path;
use tokens::Tokens;

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
