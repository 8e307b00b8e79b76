//! What a tokenizer.json does to text before its model sees it: normalizer, pre-tokenizer and flags of added tokens,
//! in the engine's terms. A part that the engine cannot follow is refused by name.

use super::parts::flatten;
use super::pre;
use super::tokens::Tokens;
use moewe_engine::tokenizer::SpacePrefix;
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// Sets what `json` says of normalizer, space prefix and splitting.
pub(super) fn set(json: &Json, tokens: &mut Tokens) -> Result<()> {
    let steps = flatten(&json["normalizer"]).into_iter().map(step).collect::<Result<Vec<_>>>()?;
    let steps: Vec<Vec<String>> = steps.into_iter().flatten().collect();
    let matches_later =
        json["added_tokens"].as_array().into_iter().flatten().any(|a| a["normalized"] == true);
    if tokens.is_sentence_piece() {
        set_sentence_piece(&json["pre_tokenizer"], steps, matches_later, tokens)
    } else {
        tokens.normalizer = steps.concat();
        set_byte_level(json, tokens)
    }
}

fn set_byte_level(json: &Json, tokens: &mut Tokens) -> Result<()> {
    let stages = flatten(&json["pre_tokenizer"]);
    let prefixes = stages.iter().position(|stage| adds_prefix(stage));
    tokens.pre = Some(pre::name(&json["pre_tokenizer"], json["model"]["ignore_merges"] == true)?);
    match prefixes {
        None => {}
        Some(0) => tokens.space_prefix = Some(SpacePrefix::EveryMissing),
        Some(_) => {
            return Err(Error::unsupported(
                "the pre-tokenizer ByteLevel with add_prefix_space behind another one",
                "it would put a space before every word",
            ));
        }
    }
    Ok(())
}

fn adds_prefix(stage: &Json) -> bool {
    // The field's default in `tokenizers` is true.
    stage["type"] == "ByteLevel" && stage["add_prefix_space"] != false
}

/// SentencePiece's way: spaces are written `▁`, which the engine does itself, and one goes before the text.
fn set_sentence_piece(
    pre_tokenizer: &Json,
    mut steps: Vec<Vec<String>>,
    matches_later: bool,
    tokens: &mut Tokens,
) -> Result<()> {
    let (prepend, escape) = (words(&["prepend", "▁"]), words(&["replace", " ", "▁"]));
    let stages = flatten(pre_tokenizer);
    let is_metaspace = |stage: &&Json| stage["type"] == "Metaspace";
    if !steps.contains(&escape) && !stages.iter().any(is_metaspace) {
        return Err(Error::unsupported(
            "BPE with byte fallback that does not write spaces as `▁`",
            "the runtime always does; without tokenizer files the model is converted to run from token ids",
        ));
    }
    let prepends = steps.contains(&prepend);
    tokens.add_space_prefix = Some(prepends);
    if !matches_later {
        let usual = steps.iter().rev().take_while(|step| **step == prepend || **step == escape).count();
        steps.truncate(steps.len() - usual);
    } // else tokens are looked for in what all steps leave, so all steps stay
    if steps.contains(&prepend) {
        tokens.space_prefix = Some(SpacePrefix::Never);
    }
    tokens.normalizer = steps.concat();
    stages.into_iter().try_for_each(|stage| set_stage(stage, tokens))
}

fn set_stage(stage: &Json, tokens: &mut Tokens) -> Result<()> {
    match stage["type"].as_str() {
        Some("Metaspace") if stage["replacement"] == "▁" => {
            let scheme = match stage["prepend_scheme"].as_str() {
                Some(scheme) => scheme,
                None if stage["add_prefix_space"] == false => "never",
                None => "always",
            };
            let prefix = match scheme {
                "always" => SpacePrefix::EveryMissing,
                "first" => SpacePrefix::FirstMissing,
                "never" => SpacePrefix::Never,
                _ => return Err(unknown("pre-tokenizer", stage)),
            };
            tokens.add_space_prefix = Some(prefix != SpacePrefix::Never);
            tokens.space_prefix = Some(prefix);
            tokens.split_spaces = stage["split"] != false;
            Ok(())
        }
        // Gemma: the normalizer has left no space to split at.
        Some("Split") if stage["pattern"]["String"] == " " => Ok(()),
        _ => Err(unknown("pre-tokenizer", stage)),
    }
}

/// A part of a normalizer as the engine's steps.
fn step(part: &Json) -> Result<Vec<Vec<String>>> {
    let text = |field: &str| part[field].as_str().ok_or_else(|| unknown("normalizer", part));
    let one = |name: &str| vec![words(&[name])];
    Ok(match part["type"].as_str() {
        Some("NFC") => one("nfc"),
        Some("NFD") => one("nfd"),
        Some("NFKC") => one("nfkc"),
        Some("NFKD") => one("nfkd"),
        Some("Lowercase") => one("lowercase"),
        Some("StripAccents") => one("strip_accents"),
        Some("Strip") => {
            let sides = [("strip_left", "strip_left"), ("strip_right", "strip_right")];
            sides.iter().filter(|(field, _)| part[*field] != false).map(|(_, name)| words(&[name])).collect()
        }
        Some("Prepend") => vec![words(&["prepend", text("prepend")?])],
        Some("Replace") => {
            let (name, pattern) = match &part["pattern"] {
                pattern if pattern["String"].is_string() => ("replace", &pattern["String"]),
                pattern => ("replace_regex", &pattern["Regex"]),
            };
            let pattern = pattern.as_str().ok_or_else(|| unknown("normalizer", part))?;
            vec![words(&[name, pattern, text("content")?])]
        }
        _ => return Err(unknown("normalizer", part)),
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn unknown(what: &str, part: &Json) -> Error {
    let part = part.to_string();
    let shown: String = part.chars().take(200).collect();
    Error::unsupported(
        format!("the {what} {shown}"),
        "the runtime cannot follow it; without tokenizer files the model is converted to run from token ids",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(model: &'static str, json: Json) -> Result<Tokens> {
        let mut tokens = Tokens { model, ..Tokens::default() };
        set(&json, &mut tokens).map(|()| tokens)
    }

    #[test]
    fn sentence_piece_pipelines() {
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let sequence = |parts: &[&Json]| json!({"type": "Sequence", "normalizers": parts});
        let metaspace = |scheme: &str, split| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
        let nfkc = json!({"type": "NFKC"});
        let later = json!([{"id": 0, "content": "x", "normalized": true}]);
        use SpacePrefix::{EveryMissing, FirstMissing, Never};
        let all = &["nfkc", "prepend", "▁", "replace", " ", "▁"][..];
        let cases = [
            (sequence(&[&prepend, &escape]), Json::Null, Json::Null, (Some(true), None, false), &[][..]),
            (escape.clone(), Json::Null, Json::Null, (Some(false), None, false), &[]),
            (
                sequence(&[&nfkc, &prepend, &escape]),
                Json::Null,
                Json::Null,
                (Some(true), None, false),
                &["nfkc"],
            ),
            (sequence(&[&nfkc, &prepend, &escape]), Json::Null, later, (Some(true), Some(Never), false), all),
            (Json::Null, metaspace("first", false), Json::Null, (Some(true), Some(FirstMissing), false), &[]),
            (Json::Null, metaspace("always", true), Json::Null, (Some(true), Some(EveryMissing), true), &[]),
            (Json::Null, metaspace("never", false), Json::Null, (Some(false), Some(Never), false), &[]),
        ];
        for (normalizer, pre_tokenizer, added, expected, steps) in cases {
            let json =
                json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "added_tokens": added});
            let tokens = read("llama", json.clone()).unwrap();
            let found = (tokens.add_space_prefix, tokens.space_prefix, tokens.split_spaces);
            assert_eq!((found, &tokens.normalizer[..]), (expected, &words(steps)[..]), "{json}");
        }
    }

    #[test]
    fn parts_without_a_step_are_refused_by_name() {
        let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let digits = json!({"type": "Digits", "individual_digits": true});
        let prefixing = json!({"type": "ByteLevel", "add_prefix_space": true});
        let behind = json!({"type": "Sequence", "pretokenizers": [digits, prefixing]});
        for (model, json, expected) in [
            ("gpt2", json!({"normalizer": {"type": "BertNormalizer"}}), "BertNormalizer"),
            ("gpt2", json!({"normalizer": {"type": "Replace", "pattern": {}, "content": ""}}), "Replace"),
            ("gpt2", json!({"pre_tokenizer": behind}), "add_prefix_space"),
            ("llama", json!({"normalizer": {"type": "NFC"}}), "does not write spaces"),
            (
                "llama",
                json!({"normalizer": escape, "pre_tokenizer": {"type": "WhitespaceSplit"}}),
                "WhitespaceSplit",
            ),
            ("llama", json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}), "Metaspace"),
        ] {
            let message = read(model, json).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
