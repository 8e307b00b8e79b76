//! vocab.json and merges.txt: byte-level BPE as slow tokenizers save it. The files do not say how text is split; the
//! tokenizer's class does.

use super::tokens::{Kind, Token, Tokens};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// What the classes of transformers that read these files do to text: pre-tokenizer and normalizer.
const CLASSES: &[(&[&str], &str, &[&str])] = &[
    (&["GPT2Tokenizer", "GPTNeoXTokenizer", "OLMoTokenizer", "RobertaTokenizer"], "gpt-2", &[]),
    (&["Qwen2Tokenizer"], "qwen2", &["nfc"]),
    (&["Qwen3_5Tokenizer"], "qwen35", &["nfc"]),
];

/// Tokenizer classes by the `model_type` of config.json, where tokenizer_config.json names none.
const MODEL_TYPES: &[(&str, &str)] = &[
    ("gpt2", "GPT2Tokenizer"),
    ("olmo", "GPTNeoXTokenizer"),
    ("olmoe", "GPTNeoXTokenizer"),
    ("granitemoe", "GPT2Tokenizer"),
    ("moe_gpt", "GPT2Tokenizer"),
    ("moe_124m", "GPT2Tokenizer"),
    ("qwen2", "Qwen2Tokenizer"),
    ("qwen2_moe", "Qwen2Tokenizer"),
    ("qwen3", "Qwen2Tokenizer"),
    ("qwen3_moe", "Qwen2Tokenizer"),
    ("qwen3_next", "Qwen2Tokenizer"),
    ("qwen3_5", "Qwen3_5Tokenizer"),
    ("qwen3_5_moe", "Qwen3_5Tokenizer"),
    ("qwen3_5_moe_text", "Qwen3_5Tokenizer"),
    ("qwen3_5_text", "Qwen3_5Tokenizer"),
];

/// The tokenizer's class, without the `Fast` of its twin; empty where nothing tells it.
pub(super) fn class<'a>(config: &'a Json, model_config: &'a Json) -> &'a str {
    let by_type = || {
        let kind = model_config["model_type"].as_str()?;
        MODEL_TYPES.iter().find(|(known, _)| *known == kind).map(|(_, class)| *class)
    };
    let class = config["tokenizer_class"].as_str().or_else(by_type).unwrap_or_default();
    class.strip_suffix("Fast").unwrap_or(class)
}

/// Reads both files.
///
/// # Errors
/// A class that is not known, or files that are none of GPT-2's kind.
pub(super) fn read(vocabulary: &Json, merges: &str, class: &str, rows: u64) -> Result<Tokens> {
    let (_, pre, steps) =
        CLASSES.iter().find(|(names, ..)| names.contains(&class)).ok_or_else(|| unknown(class))?;
    let mut tokens = Tokens { model: "gpt2", pre: Some(pre), ..Tokens::default() };
    tokens.normalizer = steps.iter().map(|&step| step.to_owned()).collect();
    let vocabulary = vocabulary
        .as_object()
        .ok_or_else(|| Error::malformed("content", "an object of tokens and their ids", "something else"))?;
    for (text, id) in vocabulary {
        let id = id.as_u64().ok_or_else(|| Error::malformed(format!("[{text:?}]"), "an id", id))?;
        tokens.set(id, Token { text: text.clone(), score: 0.0, kind: Kind::Normal }, rows)?;
    }
    let lines = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    tokens.merges = lines.map(str::to_owned).collect();
    Ok(tokens)
}

fn unknown(class: &str) -> Error {
    let known: Vec<&str> = CLASSES.iter().flat_map(|(names, ..)| *names).copied().collect();
    let known = known.join(", ");
    let what = match class {
        "" => "vocab.json and merges.txt without a tokenizer class".to_owned(),
        class => format!("vocab.json and merges.txt for a {class}"),
    };
    Error::unsupported(
        what,
        format!(
            "they do not say how text is split; let transformers save a tokenizer.json, or name one of {known} as \
             tokenizer_class in tokenizer_config.json"
        ),
    )
}
