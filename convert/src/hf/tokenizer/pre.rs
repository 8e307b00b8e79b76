//! Finds the name under which GGUF knows a pre-tokenizer, by comparing what it does with the engine's table.

use super::parts::flatten;
use moewe_engine::tokenizer::pretokenizer::{Alphabet, PRE_TOKENIZERS};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// What `ByteLevel` splits by when it is asked to (`use_regex`).
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The name for `pre_tokenizer`; `whole_words` is the model's `ignore_merges`.
pub(super) fn name(pre_tokenizer: &Json, whole_words: bool) -> Result<&'static str> {
    let stages = flatten(pre_tokenizer).into_iter().map(stage).collect::<Result<Vec<_>>>()?;
    let stages: Vec<String> = stages.into_iter().flatten().map(|stage| plain(&stage)).collect();
    let rules = PRE_TOKENIZERS.iter().filter(|rules| rules.alphabet == Alphabet::Bytes);
    let same =
        rules.filter(|rules| rules.patterns.iter().map(|pattern| plain(pattern)).eq(stages.iter().cloned()));
    // Where a model has no merges for a word that is a token, both ways lead to the same tokens.
    let (exact, near): (Vec<_>, Vec<_>) = same.partition(|rules| rules.whole_words == whole_words);
    exact.iter().chain(&near).map(|rules| rules.names[0]).next().ok_or_else(|| {
        let what = format!("the pre-tokenizer {}", stages.join("  then  "));
        Error::unsupported(
            what,
            "GGUF has no name for it; without tokenizer files the model runs from token ids",
        )
    })
}

/// The expression by which a part splits; `None` for a part that does not.
fn stage(part: &Json) -> Result<Option<String>> {
    let isolates = |part: &Json| {
        part["behavior"] == "Isolated" || (part["behavior"] == "Removed" && part["invert"] == true)
    };
    let stage = match part["type"].as_str() {
        Some("ByteLevel") => (part["use_regex"] != false).then(|| BYTE_LEVEL.to_owned()),
        Some("Digits") => {
            Some(if part["individual_digits"] == true { r"\p{N}" } else { r"\p{N}+" }.to_owned())
        }
        Some("Split") if isolates(part) => match part["pattern"]["Regex"].as_str() {
            Some(pattern) => Some(pattern.to_owned()),
            None => part["pattern"]["String"].as_str().map(escape),
        },
        _ => return Err(Error::unsupported(format!("the pre-tokenizer {part}"), "GGUF has no name for it")),
    };
    Ok(stage)
}

fn escape(text: &str) -> String {
    text.chars().flat_map(|c| c.is_ascii_punctuation().then_some('\\').into_iter().chain([c])).collect()
}

/// One spelling for expressions that do the same: without the look-ahead that the engine applies itself, without
/// possessive quantifiers (what they refuse to give back would not help here), with codes for line breaks and
/// characters for all other codes.
fn plain(pattern: &str) -> String {
    let pattern = pattern.replace(r"\s+(?!\S)|\s+", r"\s+").replace(r"\s+(?!\S)", r"\s+");
    let pattern = pattern.replace("?+", "?").replace("++", "+").replace(r"\p{N}{1}|", r"\p{N}|");
    let pattern = pattern.replace('\r', r"\r").replace('\n', r"\n");
    let mut text = String::new();
    let mut rest = pattern.as_str();
    while let Some((before, after)) = rest.split_once(r"\u{") {
        let (code, after) = after.split_once('}').unwrap_or((after, ""));
        text += before;
        text.extend(u32::from_str_radix(code, 16).ok().and_then(char::from_u32));
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn split(pattern: &str) -> Json {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    }

    fn sequence(parts: &[Json]) -> Json {
        json!({"type": "Sequence", "pretokenizers": parts})
    }

    #[test]
    fn the_known_ones_have_their_names() {
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
        let digits = json!({"type": "Digits", "individual_digits": true});
        let llama3 = split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        );
        let qwen2 = split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        );
        let ling = split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        );
        let qwen35 = split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        );
        let nemo = split(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        );
        let v3 = [
            split(r"\p{N}{1,3}"),
            split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
            split(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ),
            bytes.clone(),
        ];
        let cases = [
            (gpt2.clone(), false, "gpt-2"),
            (sequence(&[digits, gpt2]), false, "smollm"),
            (sequence(&[llama3.clone(), bytes.clone()]), true, "llama-bpe"),
            (sequence(&[llama3, bytes.clone()]), false, "dbrx"),
            (sequence(&[qwen2, bytes.clone()]), false, "qwen2"),
            (sequence(&[qwen35, bytes.clone()]), false, "qwen35"),
            (sequence(&[nemo, bytes.clone()]), false, "tekken"),
            (sequence(&[ling, bytes]), false, "bailingmoe"),
            (sequence(&v3), false, "deepseek-v3"),
            (
                serde_json::from_str(&sequence(&v3).to_string().replace(r"\\n", r"\n")).unwrap(),
                false,
                "deepseek-v3",
            ),
        ];
        for (pre_tokenizer, whole_words, expected) in cases {
            assert_eq!(name(&pre_tokenizer, whole_words).unwrap(), expected);
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        for (pre_tokenizer, expected) in [
            (split("[a-z]+"), "[a-z]+"),
            (json!({"type": "Whitespace"}), "Whitespace"),
            (
                json!({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "MergedWithNext"}),
                "MergedWithNext",
            ),
        ] {
            let message = name(&pre_tokenizer, false).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
