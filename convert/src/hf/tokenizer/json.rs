//! tokenizer.json of Hugging Face `tokenizers`: BPE over bytes, and BPE in SentencePiece's style.

use super::{Kind, Token, Tokens, pre};
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

/// The parts of a pipeline, sequences opened.
pub(super) fn flatten(part: &Json) -> Vec<&Json> {
    let lists = ["pretokenizers", "normalizers", "decoders", "processors"];
    match lists.iter().find_map(|list| part[*list].as_array()) {
        Some(parts) => parts.iter().flat_map(flatten).collect(),
        None if part.is_object() => vec![part],
        None => vec![],
    }
}

/// Reads the whole file.
pub(super) fn read(json: &Json, rows: u64) -> Result<Tokens> {
    let kind = json["model"]["type"].as_str().unwrap_or("BPE");
    let is_byte_level = is_byte_level(json);
    if kind != "BPE" || !(is_byte_level || json["model"]["byte_fallback"] == true) {
        let what = format!("a {kind} tokenizer");
        return Err(Error::unsupported(what, "known are byte-level BPE and BPE with byte fallback"));
    }
    let merges = merges(&json["model"]["merges"])?;
    let mut tokens = Tokens { model: if is_byte_level { "gpt2" } else { "llama" }, ..Tokens::default() };
    add_vocabulary(json, rows, &mut tokens)?;
    if is_byte_level {
        tokens.pre = Some(pre::name(&json["pre_tokenizer"], json["model"]["ignore_merges"] == true)?);
        tokens.merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    } else {
        set_scores(&merges, &mut tokens);
        tokens.add_space_prefix = Some(adds_space_prefix(json));
    }
    add_special(json, &mut tokens, rows)?;
    (tokens.add_bos, tokens.add_eos) = ends(json);
    Ok(tokens)
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
            name if tokens.model == "llama" && byte_named(name).is_some() => Kind::Byte,
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

/// SentencePiece joins by the score of the result: the first merge that makes a token gives it its score.
fn set_scores(merges: &[(&str, &str)], tokens: &mut Tokens) {
    let mut ranks = std::collections::HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry([*left, *right].concat()).or_insert(rank);
    }
    for token in tokens.tokens.iter_mut().flatten() {
        // What no merge makes comes last; single characters are never asked for their score.
        token.score = ranks.get(&token.text).map_or(-1e9, |&rank| -(rank as f32));
    }
}

/// Llama prepends `▁` in its normalizer or in Metaspace; Gemma does neither.
fn adds_space_prefix(json: &Json) -> bool {
    let prepends = |part: &&Json| part["type"] == "Prepend" && part["prepend"] == "▁";
    let metaspace = |part: &&Json| {
        let scheme = part["prepend_scheme"].as_str();
        part["type"] == "Metaspace"
            && scheme.map_or(part["add_prefix_space"] != false, |scheme| scheme != "never")
    };
    flatten(&json["normalizer"]).iter().any(prepends) || flatten(&json["pre_tokenizer"]).iter().any(metaspace)
}

/// Puts the tokens of `added_tokens` where they belong.
pub(super) fn add_special(json: &Json, tokens: &mut Tokens, rows: u64) -> Result<()> {
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(text)) = (added["id"].as_u64(), added["content"].as_str()) else {
            return Err(Error::malformed("added_tokens", "objects with id and content", added));
        };
        tokens.add_special(id, text, added["special"] == true, rows)?;
    }
    Ok(())
}

/// Whether the post-processor puts a special token before and after a single text.
fn ends(json: &Json) -> (Option<bool>, Option<bool>) {
    let processors = flatten(&json["post_processor"]);
    let template = processors.iter().find_map(|part| part["single"].as_array());
    let is_special = |part: Option<&Json>| part.is_some_and(|part| part.get("SpecialToken").is_some());
    (template.map(|parts| is_special(parts.first())), template.map(|parts| is_special(parts.last())))
}
