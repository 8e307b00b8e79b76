//! Which tokens end an answer. Files name one or two of them at best, so the texts that known models use count too.

use super::spec::{self, SpecialIds};
use super::vocabulary::{TokenType, Vocabulary};
use crate::gguf::Metadata;
use crate::{Error, Result};

/// Texts of end tokens (the list of llama.cpp's `src/llama-vocab.cpp`).
const TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
];

/// A text that ends nothing where all of the others are tokens too.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    ("<|end|>", &["<|return|>", "<|call|>"]), // gpt-oss closes each message of one answer with it
    ("<|end|>", &["<|flush|>", "<|calls|>"]), // Solar Open likewise
    ("</s>", &["<|tool_response>"]),          // ordinary text in Gemma 4
];

/// The end tokens in ascending order: those known by their text, which are marked as control tokens, those with a role,
/// and those that the file has `named` besides.
pub(super) fn find(vocabulary: &mut Vocabulary, ids: &SpecialIds, named: &[u32]) -> Vec<u32> {
    let known = |text: &&&str| vocabulary.id_of(text.as_bytes()).is_some();
    let excepted =
        |text: &str| EXCEPTIONS.iter().any(|(end, signs)| *end == text && signs.iter().all(|s| known(&s)));
    let by_text = TEXTS.iter().filter(|text| known(text) && !excepted(text));
    let mut ends: Vec<u32> = by_text.filter_map(|text| vocabulary.id_of(text.as_bytes())).collect();
    ends.iter().for_each(|&id| vocabulary.set_kind(id, TokenType::Control));
    ends.extend([ids.eos, ids.eot, ids.eom].into_iter().flatten().chain(named.iter().copied()));
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// The end tokens of a file without a tokenizer, in ascending order: those that its keys name.
///
/// # Errors
/// When an id is not below `vocab_size`.
pub(crate) fn of_metadata(metadata: &Metadata, vocab_size: usize) -> Result<Vec<u32>> {
    let ids = SpecialIds::from_metadata(metadata)?;
    let roles = [("eos_token_id", ids.eos), ("eot_token_id", ids.eot), ("eom_token_id", ids.eom)];
    // Converters write -1 for "none".
    let roles = roles.into_iter().filter_map(|(key, id)| Some((key, id.filter(|&id| id != u32::MAX)?)));
    let more = spec::end_ids(metadata)?.into_iter().map(|id| ("eog_token_ids", id));
    let mut ends = Vec::new();
    for (key, id) in roles.chain(more) {
        if id as usize >= vocab_size {
            let place = format!("key `tokenizer.ggml.{key}`");
            return Err(Error::malformed(place, format!("a token below {vocab_size}"), id));
        }
        ends.push(id);
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::super::spec::VocabularySpec;
    use super::*;

    #[test]
    fn ends_come_from_ids_and_texts() {
        let eos = SpecialIds { eos: Some(0), ..Default::default() };
        let cases: &[(&[&str], SpecialIds, &[u32])] = &[
            (&["a", "<|im_end|>", "b", "<|endoftext|>"], SpecialIds::default(), &[1, 3]),
            (&["a", "</s>", "<|eot_id|>"], eos, &[0, 1, 2]),
            (&["a", "<|end|>", "<|call|>"], eos, &[0, 1, 2]),
            (&["a", "<|end|>", "<|call|>", "<|return|>"], eos, &[0, 2, 3]),
            (&["a", "</s>", "<|tool_response>"], eos, &[0, 2]),
        ];
        for (tokens, ids, expected) in cases {
            let spec = VocabularySpec { tokens: tokens.to_vec(), ..Default::default() };
            let mut vocabulary = Vocabulary::new(&spec).unwrap();
            assert_eq!(&find(&mut vocabulary, ids, &[]), expected, "{tokens:?}");
            assert_eq!(vocabulary.kind(0), Some(TokenType::Normal));
            assert_eq!(vocabulary.kind(2) == Some(TokenType::Control), expected.contains(&2), "{tokens:?}");
        }
    }

    #[test]
    fn ends_of_a_file_without_a_tokenizer() {
        let mut metadata = Metadata::new();
        assert_eq!(of_metadata(&metadata, 10).unwrap(), [0u32; 0]);
        metadata.set("tokenizer.ggml.eos_token_id", 7u32);
        metadata.set("tokenizer.ggml.eot_token_id", 3i32);
        metadata.set("tokenizer.ggml.eom_token_id", -1i32);
        metadata.set("tokenizer.ggml.eog_token_ids", vec![7u32, 8]);
        assert_eq!(of_metadata(&metadata, 10).unwrap(), [3, 7, 8]);
        let error = of_metadata(&metadata, 7).unwrap_err().to_string();
        assert!(
            error.contains("`tokenizer.ggml.eos_token_id`: expected a token below 7, found 7"),
            "{error}"
        );
    }
}
