//! Training of a tokenizer: byte-level BPE over the words of a corpus.
//!
//! Words are counted here, document by document; the merges are found by the crate `tokenizers`. The rules that find
//! words are those of well-known models, so that GGUF has a name for them and every runtime knows them.

use super::batches::Pass;
use super::corpus::{Separator, Source};
use super::pieces::pieces;
use super::progress::{Progress, Report};
use crate::{Error, Result};
use moewe_engine::tokenizer::bytes::CHARACTERS;
use moewe_engine::tokenizer::pretokenizer::{PreTokenizer, Splitter};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, Model, SplitDelimiterBehavior, Tokenizer};

/// The token that ends a document, at id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Rules that find the words of a text.
#[derive(Debug)]
pub struct Rules {
    /// The name on the command line.
    pub name: &'static str,
    /// GGUF's name.
    pub gguf_name: &'static str,
    /// The expression as Hugging Face writes it.
    pub pattern: &'static str,
    /// Whether a word that is a token is taken whole, as these models do.
    pub whole_words: bool,
}

/// What `ByteLevel` splits by when it is asked to.
pub(super) const BYTE_LEVEL_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// All rules, the usual ones first.
pub const PRE_TOKENIZERS: &[Rules] = &[
    Rules { name: "llama-bpe", gguf_name: "llama-bpe", pattern: LLAMA3, whole_words: true },
    Rules { name: "qwen2", gguf_name: "qwen2", pattern: QWEN2, whole_words: false },
    Rules { name: "gpt2", gguf_name: "gpt-2", pattern: BYTE_LEVEL_PATTERN, whole_words: false },
];

const PIECE: usize = 64 << 10;
/// Longer words are rulers and encoded pictures: they would make tokens that no text needs.
const LONGEST_WORD: usize = 256;
/// Different words that are counted; beyond it the rarest are forgotten.
const MOST_WORDS: usize = 16 << 20;

/// How a tokenizer is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is read.
    pub sources: Vec<Source>,
    /// What ends a document in plain text.
    pub separator: Separator,
    /// Tokens in all, special ones and the 256 bytes included.
    pub vocabulary_size: usize,
    /// What finds words.
    pub rules: &'static Rules,
    /// Special tokens after [`END_OF_TEXT`].
    pub special: Vec<String>,
    /// Raised to end the counting.
    pub stop: Arc<AtomicBool>,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Documents read.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Different words.
    pub words: u64,
    /// Tokens in all; fewer than wanted where the text has no more to join.
    pub vocabulary_size: usize,
    /// Mean length of a token over the words that were counted.
    pub bytes_per_token: f64,
}

/// Trains a tokenizer.
///
/// # Errors
/// A vocabulary too small for the 256 bytes and the special tokens, no text, and whatever reading runs into.
pub fn train(settings: &Settings, report: Report) -> Result<(Tokenizer, Outcome)> {
    let special = special_tokens(settings)?;
    let splitter = Splitter::new(PreTokenizer::by_name(settings.rules.gguf_name)?)?;
    let progress = Progress::begin();
    let mut pass = Pass { separator: settings.separator, stop: &settings.stop, progress, report };
    let mut counts = HashMap::new();
    for source in &settings.sources {
        pass.run(source, |batch| {
            merge(&mut counts, count(&splitter, &batch));
            forget_rare(&mut counts, MOST_WORDS);
            Ok(())
        })?;
    }
    if counts.is_empty() {
        let names = settings.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::request(format!(
            "{names}: no text to make a tokenizer of; name a corpus with --data"
        )));
    }
    let model = find_merges(settings, special.clone(), &counts)?;
    tell_unreached(settings.vocabulary_size, model.get_vocab_size());
    let outcome = Outcome {
        documents: pass.progress.documents,
        bytes: pass.progress.bytes,
        words: counts.len() as u64,
        vocabulary_size: model.get_vocab_size(),
        bytes_per_token: bytes_per_token(&model, &counts)?,
    };
    Ok((assemble(settings.rules, model, special)?, outcome))
}

/// Says where the text has too few pairs to join for the vocabulary that was wanted.
fn tell_unreached(wanted: usize, reached: usize) {
    if reached < wanted {
        tracing::warn!(
            "the vocabulary has {reached} tokens, not {wanted}: no other pair comes twice in the text; name more text, \
             or say --vocabulary {reached}"
        );
    }
}

fn special_tokens(settings: &Settings) -> Result<Vec<AddedToken>> {
    let mut texts = vec![END_OF_TEXT.to_owned()];
    texts.extend(settings.special.iter().filter(|text| *text != END_OF_TEXT).cloned());
    let least = 256 + texts.len();
    if settings.vocabulary_size < least || settings.vocabulary_size > 1 << 24 {
        let found = settings.vocabulary_size;
        return Err(Error::request(format!(
            "a vocabulary of {found} tokens; there can be {least} to {}",
            1 << 24
        )));
    }
    Ok(texts.into_iter().map(|text| AddedToken::from(text, true)).collect())
}

/// How often each word stands in `documents`.
fn count<'a>(splitter: &Splitter, documents: &'a [String]) -> HashMap<&'a str, u64> {
    let pieces = documents.par_iter().flat_map(|document| pieces(document, PIECE));
    let counted = pieces.fold(HashMap::new, |mut counts: HashMap<&str, u64>, piece| {
        for word in splitter.split(piece).into_iter().filter(|word| word.len() <= LONGEST_WORD) {
            *counts.entry(word).or_default() += 1;
        }
        counts
    });
    counted.reduce(HashMap::new, |mut left, right| {
        right.into_iter().for_each(|(word, count)| *left.entry(word).or_default() += count);
        left
    })
}

fn merge(counts: &mut HashMap<String, u64>, more: HashMap<&str, u64>) {
    for (word, count) in more {
        match counts.get_mut(word) {
            Some(known) => *known += count,
            None => drop(counts.insert(word.to_owned(), count)),
        }
    }
}

/// Where there are more than `most` words, forgets the rarest until half of that is left.
fn forget_rare(counts: &mut HashMap<String, u64>, most: usize) {
    let mut rare = 1;
    while counts.len() > most || (rare > 1 && counts.len() > most / 2) {
        counts.retain(|_, count| *count > rare);
        rare += 1;
    }
}

/// Trains the model. The crate counts pairs in 31 bits, so larger counts are scaled down, none to nothing.
fn find_merges(settings: &Settings, special: Vec<AddedToken>, counts: &HashMap<String, u64>) -> Result<BPE> {
    let pairs: u64 = counts.iter().map(|(word, count)| word.len() as u64 * count).sum();
    let scale = pairs / (i32::MAX as u64 / 2) + 1;
    let trainer = BpeTrainer::builder()
        .vocab_size(settings.vocabulary_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(CHARACTERS.iter().copied().collect())
        .build();
    let scaled = counts.iter().map(|(word, count)| (spell(word).into(), count.div_ceil(scale))).collect();
    let model = BPE::builder().ignore_merges(settings.rules.whole_words).build();
    let mut model = model.map_err(refused)?;
    trainer.do_train(&scaled, &mut model).map_err(refused)?;
    Ok(model)
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::request(format!("the tokenizer cannot be made: {error}"))
}

/// A word in GPT-2's spelling of bytes.
fn spell(word: &str) -> String {
    word.bytes().map(|byte| CHARACTERS[usize::from(byte)]).collect()
}

fn bytes_per_token(model: &BPE, counts: &HashMap<String, u64>) -> Result<f64> {
    let counts: Vec<(&String, u64)> = counts.iter().map(|(word, &count)| (word, count)).collect();
    let tokens =
        counts.par_iter().map(|(word, count)| Ok(model.tokenize(&spell(word))?.len() as u64 * count));
    let tokens: u64 = tokens.sum::<tokenizers::Result<u64>>().map_err(refused)?;
    let bytes: u64 = counts.iter().map(|(word, count)| word.len() as u64 * count).sum();
    Ok(bytes as f64 / tokens.max(1) as f64)
}

/// The model with its rules, as tokenizer.json has them.
fn assemble(rules: &Rules, model: BPE, special: Vec<AddedToken>) -> Result<Tokenizer> {
    let pattern = SplitPattern::Regex(rules.pattern.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(refused)?;
    let bytes = ByteLevel::new(false, true, false);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_special_tokens(special).map_err(refused)?;
    Ok(tokenizer)
}

/// Refuses to replace tokenizer.json or the file beside it without `force`.
///
/// # Errors
/// One of them exists.
pub fn check_free(path: &Path, force: bool) -> Result<()> {
    match [path, &config_beside(path)].into_iter().find(|path| path.exists() && !force) {
        Some(taken) => Err(Error::exists(taken)),
        None => Ok(()),
    }
}

fn config_beside(path: &Path) -> PathBuf {
    path.with_file_name("tokenizer_config.json")
}

/// Writes `tokenizer` to `path` and, beside it, tokenizer_config.json: which token ends a text, and that none begins it.
///
/// # Errors
/// Files that exist, without `force`, and whatever writing runs into.
pub fn save(tokenizer: &Tokenizer, path: &Path, force: bool) -> Result<()> {
    check_free(path, force)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create", error))?;
    }
    let settings = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": END_OF_TEXT,
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
    });
    let text = serde_json::to_string_pretty(&settings).unwrap_or_default() + "\n";
    write(path, &(tokenizer.to_string(true).map_err(refused)? + "\n"))?;
    write(&config_beside(path), &text)
}

/// Writes beside the place and renames.
fn write(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).map_err(|error| Error::io(&partial, "write", error))?;
    std::fs::rename(&partial, path).map_err(|error| Error::io(path, "create", error))
}

#[cfg(test)]
mod tests;
