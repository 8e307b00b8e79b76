//! tokenizer.json of Hugging Face `tokenizers`: BPE over bytes, and BPE in SentencePiece's style.

use super::parts::flatten;
use super::tokens::{Kind, Token, Tokens};
use super::{frame, pipeline, scores};
use moewe_engine::tokenizer::bytes::byte_named;
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// Whether tokens are spelled in GPT-2's alphabet.
pub(super) fn is_byte_level(json: &Json) -> bool {
    has_type(&json["decoder"], "ByteLevel") || has_type(&json["pre_tokenizer"], "ByteLevel")
}

/// Whether `part`, or one of the parts of a sequence, is of `kind`.
fn has_type(part: &Json, kind: &str) -> bool {
    flatten(part).iter().any(|part| part["type"] == kind)
}

/// Reads the whole file. SentencePiece's style becomes GGUF's `llama`, which goes by scores, or `gemma4`, which goes by
/// merges.
pub(super) fn read(json: &Json, by_merges: bool, rows: u64) -> Result<Tokens> {
    let model = &json["model"];
    let kind = model["type"].as_str().unwrap_or("BPE");
    let is_byte_level = is_byte_level(json);
    if kind != "BPE" || !(is_byte_level || model["byte_fallback"] == true) {
        let what = format!("a {kind} tokenizer");
        return Err(Error::unsupported(what, "known are byte-level BPE and BPE with byte fallback"));
    }
    refuse_variants(model)?;
    let merges = merges(&model["merges"])?;
    let model = match (is_byte_level, by_merges) {
        (true, _) => "gpt2",
        (false, true) => "gemma4",
        (false, false) => "llama",
    };
    let mut tokens = Tokens { model, ..Tokens::default() };
    add_vocabulary(json, rows, &mut tokens)?;
    if is_byte_level || by_merges {
        tokens.merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    } else {
        scores::set(&merges, &mut tokens);
    }
    complete(json, &mut tokens, rows)?;
    frame::set(&json["post_processor"], &mut tokens)?;
    Ok(tokens)
}

/// What the file says besides its vocabulary: what happens to text first, and the tokens that were added.
pub(super) fn complete(json: &Json, tokens: &mut Tokens, rows: u64) -> Result<()> {
    pipeline::set(json, tokens)?;
    add_special(json, tokens, rows)
}

/// Refuses what BPE can do besides, which nothing here follows.
fn refuse_variants(model: &Json) -> Result<()> {
    for name in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        let value = &model[name];
        if !(value.is_null() || *value == "" || *value == 0.0) {
            return Err(Error::unsupported(
                format!("BPE with {name} {value}"),
                "the runtime merges without it",
            ));
        }
    }
    Ok(())
}

fn add_vocabulary(json: &Json, rows: u64, tokens: &mut Tokens) -> Result<()> {
    let vocabulary = json["model"]["vocab"].as_object();
    let vocabulary =
        vocabulary.ok_or_else(|| Error::malformed("model.vocab", "an object", "something else"))?;
    let unknown = json["model"]["unk_token"].as_str();
    for (text, id) in vocabulary {
        let id =
            id.as_u64().ok_or_else(|| Error::malformed(format!("model.vocab[{text:?}]"), "an id", id))?;
        let kind = match text.as_str() {
            _ if Some(text.as_str()) == unknown => Kind::Unknown,
            name if tokens.is_sentence_piece() && byte_named(name).is_some() => Kind::Byte,
            _ => Kind::Normal,
        };
        tokens.set(id, Token { text: text.clone(), score: 0.0, kind }, rows)?;
    }
    Ok(())
}

/// Merges as pairs, from either spelling: `"a b"` and `["a", "b"]`.
fn merges(list: &Json) -> Result<Vec<(&str, &str)>> {
    let merges =
        list.as_array().ok_or_else(|| Error::malformed("model.merges", "a list", "something else"))?;
    merges.iter().enumerate().map(|(index, merge)| pair(index, merge)).collect()
}

fn pair(index: usize, merge: &Json) -> Result<(&str, &str)> {
    let pair = match merge {
        Json::String(text) => text.split_once(' '),
        merge => merge[0].as_str().zip(merge[1].as_str()),
    };
    pair.ok_or_else(|| Error::malformed(format!("model.merges[{index}]"), "two tokens", merge))
}

/// Puts the tokens of `added_tokens` where they belong.
fn add_special(json: &Json, tokens: &mut Tokens, rows: u64) -> Result<()> {
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(text)) = (added["id"].as_u64(), added["content"].as_str()) else {
            return Err(Error::malformed("added_tokens", "objects with id and content", added));
        };
        let id = tokens.add_special(id, text, added["special"] == true, rows)?;
        tokens.add_edges(id, added);
        if added["normalized"] == true && !tokens.normalizer.is_empty() {
            tokens.matching.normalized.push(id);
        }
    }
    Ok(())
}
