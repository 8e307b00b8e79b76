//! The tokenizer's lists as a file gives them: borrowed, typed, not yet checked against each other.
//!
//! [`VocabularySpec::from_metadata`] reads the `tokenizer.ggml.*` keys; whether ids are in range and lists agree is
//! checked by the vocabulary that is built from them.

use super::normalizer::{self, SpacePrefix};
use crate::gguf::{Array, Metadata};
use crate::{Error, Result};
use std::borrow::Cow;

/// A vocabulary in the terms of GGUF's `tokenizer.ggml.*` keys. Empty lists stand for absent keys.
#[derive(Clone, Debug, Default)]
pub struct VocabularySpec<'a> {
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece) or `gemma4` (BPE over SentencePiece text).
    pub model: &'a str,
    /// `pre`: the name of the splitting rules, only for `gpt2`.
    pub pre: &'a str,
    /// `tokens`: one text per id.
    pub tokens: Vec<&'a str>,
    /// `scores`: one per token; `llama` merges the highest first.
    pub scores: Vec<f32>,
    /// `token_type`: one per token.
    pub types: Vec<i32>,
    /// `merges`: "left right", the most important first.
    pub merges: Vec<&'a str>,
    /// `bos_token_id` and its siblings.
    pub ids: SpecialIds,
    /// `add_bos_token`; absent means the model's habit.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; absent means yes for `llama`.
    pub add_space_prefix: Option<bool>,
    /// `moewe.tokenizer.space_prefix`: more exactly than `add_space_prefix`, and for every model.
    pub space_prefix: Option<SpacePrefix>,
    /// `moewe.tokenizer.normalizer`: the steps of [`Normalizer`](super::normalizer::Normalizer).
    pub normalizer: Vec<&'a str>,
    /// `precompiled_charsmap`: the rules of the normalizer's step `charsmap`.
    pub charsmap: Cow<'a, [u8]>,
    /// `moewe.tokenizer.merges`: "left right" as in `merges`, for a `llama` vocabulary whose order no scores can tell.
    pub ranked: Vec<&'a str>,
    /// `moewe.tokenizer.split_spaces`: words of `llama` do not grow across a space.
    pub split_spaces: bool,
    /// How some tokens are matched.
    pub matching: Matching,
    /// `eog_token_ids`: tokens that end an answer, besides those that have a role.
    pub ends: Vec<u32>,
}

/// How tokens are matched that differ from the rest: lists of ids, as Hugging Face's added tokens have flags.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    /// `moewe.tokenizer.lstrip`: takes the white space before it.
    pub lstrip: Vec<u32>,
    /// `moewe.tokenizer.rstrip`: takes the white space after it.
    pub rstrip: Vec<u32>,
    /// `moewe.tokenizer.single_word`: only where no letter, digit or underscore touches it.
    pub single_word: Vec<u32>,
    /// `moewe.tokenizer.normalized`: looked for, in its normalized spelling, after the normalizer.
    pub normalized: Vec<u32>,
}

impl<'a> VocabularySpec<'a> {
    /// The `tokenizer.ggml.*` keys; `None` where a file says that it brings no tokenizer, or says nothing.
    ///
    /// # Errors
    /// A key of another type than it should have, or with a value that is not known.
    pub fn from_metadata(metadata: &'a Metadata) -> Result<Option<Self>> {
        let Some(model) = metadata.str("tokenizer.ggml.model")?.filter(|&model| model != "none") else {
            return Ok(None);
        };
        Ok(Some(Self {
            model,
            pre: metadata.str("tokenizer.ggml.pre")?.unwrap_or_default(),
            tokens: strings(metadata, "tokenizer.ggml.tokens")?,
            scores: scores(metadata)?,
            types: types(metadata)?,
            merges: strings(metadata, "tokenizer.ggml.merges")?,
            ids: SpecialIds::from_metadata(metadata)?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            space_prefix: metadata.str(SpacePrefix::KEY)?.map(SpacePrefix::by_name).transpose()?,
            normalizer: strings(metadata, normalizer::STEPS)?,
            charsmap: charsmap(metadata)?,
            ranked: strings(metadata, "moewe.tokenizer.merges")?,
            split_spaces: metadata.bool("moewe.tokenizer.split_spaces")?.unwrap_or(false),
            matching: Matching {
                lstrip: ids(metadata, "moewe.tokenizer.lstrip")?,
                rstrip: ids(metadata, "moewe.tokenizer.rstrip")?,
                single_word: ids(metadata, "moewe.tokenizer.single_word")?,
                normalized: ids(metadata, "moewe.tokenizer.normalized")?,
            },
            ends: end_ids(metadata)?,
        }))
    }
}

/// The elements of `key` as `convert` sees them; empty without the key.
fn list<'a, T>(
    metadata: &'a Metadata,
    key: &str,
    expected: &str,
    convert: impl Fn(&'a Array) -> Option<Vec<T>>,
) -> Result<Vec<T>> {
    // An empty array may be of any type: some writers have only one for all.
    let Some(array) = metadata.array(key)?.filter(|array| !array.is_empty()) else { return Ok(Vec::new()) };
    convert(array).ok_or_else(|| Error::malformed(format!("key `{key}`"), expected, array.element_name()))
}

fn strings<'a>(metadata: &'a Metadata, key: &str) -> Result<Vec<&'a str>> {
    list(metadata, key, "an array of strings", |array| array.as_strings().map(Iterator::collect))
}

fn scores(metadata: &Metadata) -> Result<Vec<f32>> {
    list(metadata, "tokenizer.ggml.scores", "an array of floats", |array| {
        array.as_f32s().map(|all| all.into_owned())
    })
}

fn types(metadata: &Metadata) -> Result<Vec<i32>> {
    let key = "tokenizer.ggml.token_type";
    list(metadata, key, "an array of small integers", |array| array.as_i32s().map(|all| all.into_owned()))
}

fn ids(metadata: &Metadata, key: &str) -> Result<Vec<u32>> {
    list(metadata, key, "an array of token ids", |array| array.as_u32s().map(|all| all.into_owned()))
}

/// Tokens that end an answer, besides those with a role.
pub(super) fn end_ids(metadata: &Metadata) -> Result<Vec<u32>> {
    ids(metadata, "tokenizer.ggml.eog_token_ids")
}

/// Bytes, in whichever of the two types of a byte a file has them.
fn charsmap(metadata: &Metadata) -> Result<Cow<'_, [u8]>> {
    match metadata.array("tokenizer.ggml.precompiled_charsmap")? {
        None => Ok(Cow::Borrowed(&[])),
        Some(Array::U8(bytes)) => Ok(Cow::Borrowed(bytes)),
        Some(Array::I8(bytes)) => Ok(bytes.iter().map(|&byte| byte as u8).collect()),
        Some(other) => {
            let place = "key `tokenizer.ggml.precompiled_charsmap`";
            Err(Error::malformed(place, "an array of bytes", other.element_name()))
        }
    }
}

/// Tokens with a role, each absent where the file names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message, when a tool is to answer.
    pub eom: Option<u32>,
    /// Stands for text that has no token.
    pub unknown: Option<u32>,
    /// Fills rows of a batch in training.
    pub padding: Option<u32>,
}

impl SpecialIds {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let id = |name: &str| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            // -1 and 2^32 - 1 both say "none"; anything else that large is out of range later.
            let value = metadata.i64(&key)?.filter(|&value| value != -1);
            Ok(value.map(|value| u32::try_from(value).unwrap_or(u32::MAX - 1)))
        };
        Ok(Self {
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
        })
    }
}
