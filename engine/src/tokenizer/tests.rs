//! Tests that cross the parts of the tokenizer: golden ids, HF `tokenizers` as a twin, real vocabularies, hostile specs.

use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use std::path::PathBuf;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

/// A file of tests/golden/tokenizer.
#[derive(Deserialize)]
struct Golden {
    model: String,
    pre: String,
    tokens: Vec<String>,
    #[serde(default)]
    scores: Vec<f32>,
    types: Vec<i32>,
    merges: Vec<String>,
    cases: Vec<(String, Vec<u32>)>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer");
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    }

    fn spec(&self) -> VocabularySpec<'_> {
        VocabularySpec {
            model: &self.model,
            pre: &self.pre,
            tokens: self.tokens.iter().map(String::as_str).collect(),
            scores: self.scores.clone(),
            types: self.types.clone(),
            merges: self.merges.iter().map(String::as_str).collect(),
            ..Default::default()
        }
    }
}

#[test]
fn golden_ids_and_back() {
    let mut failures = Vec::new();
    for name in ["byte_level.json", "sentence_piece.json"] {
        let golden = Golden::read(name);
        let tokenizer = Tokenizer::new(&golden.spec()).unwrap();
        assert!(golden.cases.len() > 40);
        for (text, expected) in &golden.cases {
            let tokens = tokenizer.encode(text, Special::Plain).unwrap();
            if tokens != *expected {
                failures.push(format!("{name}: {text:?}: {tokens:?}, expected {expected:?}"));
            }
            let decoded = tokenizer.decode(&tokens);
            // SentencePiece has one token for a space and for its own sign of it.
            if decoded != text.replace('▁', if name.starts_with('s') { " " } else { "▁" }) {
                failures.push(format!("{name}: {text:?} comes back as {decoded:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn special_tokens_and_ends() {
    let golden = Golden::read("byte_level.json");
    let ids = SpecialIds { bos: Some(1), eos: Some(2), ..Default::default() };
    let tokenizer = Tokenizer::new(&VocabularySpec { ids, add_bos: Some(true), ..golden.spec() }).unwrap();
    let text = "<|im_start|>x<|im_end|>";
    assert_eq!(tokenizer.encode("x", Special::Plain).unwrap(), [90]);
    assert_eq!(tokenizer.encode(text, Special::Parse).unwrap(), [1, 90, 2]);
    assert!(tokenizer.encode(text, Special::Plain).unwrap().iter().all(|&token| token > 2));
    assert_eq!(tokenizer.encode_with_bos(text, Special::Parse).unwrap(), [1, 90, 2], "no second BOS");
    assert_eq!(tokenizer.encode_with_bos("x", Special::Parse).unwrap(), [1, 90]);
    assert_eq!(tokenizer.decode(&[1, 90, 2]), "x");
    assert_eq!(tokenizer.ends(), [0, 2]);
    assert!(
        tokenizer.is_end(2) && !tokenizer.is_end(1) && tokenizer.is_control(1) && !tokenizer.is_control(90)
    );
    assert_eq!(
        (tokenizer.token_text(1), tokenizer.id_of("Ġ"), tokenizer.piece_bytes(90)),
        ("<|im_start|>", Some(223), &b"x"[..])
    );
    assert_eq!(
        (tokenizer.piece_bytes(u32::MAX), tokenizer.token_text(9999), tokenizer.is_end(9999)),
        (&b""[..], "", false)
    );
}

#[test]
fn ordinary_text_never_makes_a_control_token() {
    let tokens = vec!["<unk>", "<", "s", ">", "<s", "<s>", "▁"];
    let types = vec![2, 1, 1, 1, 1, 3, 1];
    let spec = VocabularySpec { model: "llama", tokens, types, ..Default::default() };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    assert_eq!(tokenizer.encode("<s>", Special::Plain).unwrap(), [6, 4, 3]);
    assert_eq!(tokenizer.encode("<s>", Special::Parse).unwrap(), [5]);
    let spec = VocabularySpec {
        model: "gpt2",
        pre: "llama-bpe",
        tokens: vec!["a", "b", "ab"],
        types: vec![1, 1, 3],
        ..Default::default()
    };
    assert_eq!(Tokenizer::new(&spec).unwrap().encode("ab", Special::Plain).unwrap(), [0, 1]);
}

/// HF's tokenizer for the same rules, with the look-ahead that our expressions leave out.
struct Twin(BPE, PreTokenizerWrapper);

impl Twin {
    fn new(golden: &Golden, rules: &PreTokenizer) -> Self {
        let vocabulary: serde_json::Map<_, _> =
            golden.tokens.iter().cloned().zip((0..).map(|id: u32| id.into())).collect();
        let model = serde_json::json!({
            "type": "BPE", "vocab": vocabulary, "merges": golden.merges, "ignore_merges": rules.whole_words,
        });
        let model = serde_json::from_str(&model.to_string()).unwrap();
        let split = |pattern: &&str| {
            let original = pattern.strip_suffix(r"|\s+").map(|rest| format!(r"{rest}|\s+(?!\S)|\s+"));
            let pattern = SplitPattern::Regex(original.unwrap_or_else(|| (*pattern).to_owned()));
            PreTokenizerWrapper::Split(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap())
        };
        let mut stages: Vec<PreTokenizerWrapper> = rules.patterns.iter().map(split).collect();
        stages.push(ByteLevel::new(false, true, false).into());
        Self(model, Sequence::new(stages).into())
    }

    fn encode(self, text: &str) -> Vec<u32> {
        let mut tokenizer = tokenizers::Tokenizer::new(self.0);
        tokenizer.with_pre_tokenizer(Some(self.1));
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    }
}

/// Texts made of what the splitting rules tell apart.
fn texts() -> impl Strategy<Value = String> {
    let characters = "abzABZäßÖŁǅſ'sdmtlre0129٣½ \t\n\r\u{a0}\u{2003}\u{85}.,!?/<=>^~|`$+()\"。，一龥ぁヿ가힣กЯя\u{301}\u{200d}🐦①";
    let one = proptest::sample::select(characters.chars().collect::<Vec<_>>());
    proptest::collection::vec(one, 0..40).prop_map(|characters| characters.into_iter().collect())
}

/// The rules that HF's byte-level model can follow.
fn byte_rules() -> Vec<&'static PreTokenizer> {
    let bytes = |rules: &&PreTokenizer| rules.alphabet == pretokenizer::Alphabet::Bytes;
    pretokenizer::PRE_TOKENIZERS.iter().filter(bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hugging_face_agrees(text in texts(), rules in proptest::sample::select(byte_rules())) {
        let golden = Golden::read("byte_level.json");
        let spec = VocabularySpec { pre: rules.names[0], types: vec![], ..golden.spec() };
        let tokens = Tokenizer::new(&spec).unwrap().encode(&text, Special::Plain).unwrap();
        prop_assert_eq!(tokens, Twin::new(&golden, rules).encode(&text), "{} {:?}", rules.names[0], text);
    }

    #[test]
    fn any_spec_ends_in_ok_or_err(
        tokens in proptest::collection::vec("[ab▁ Ġ]{0,3}|<0x4[0-9A-G]>|</s>|<s>", 0..12),
        mut types in proptest::collection::vec(0i32..8, 0..12),
        mut scores in proptest::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..12),
        merges in proptest::collection::vec("[ab▁]{1,2} [ab▁]{1,2}|[ab ]{0,3}", 0..3),
        (model, pre) in (0usize..3, 0usize..3).prop_map(|(a, b)| (["gpt2", "llama", "gemma4"][a], ["", "llama-bpe", "x"][b])),
        (bos, fit, text) in (any::<Option<u8>>(), 0u8..8, "[ab▁ Ġ<s>/A\n]{0,30}"),
        (steps, prefix, flagged, split_spaces) in (
            proptest::collection::vec("nfc|nfkd|lowercase|strip_left|squeeze_spaces|prepend|replace|replace_regex|[ab ]", 0..5),
            0usize..5, proptest::collection::vec(0u32..12, 0..6), any::<bool>(),
        ),
    ) {
        if fit > 0 {
            types = types.iter().map(|kind| kind % 7).chain(std::iter::repeat(1)).take(tokens.len()).collect();
            scores.resize(tokens.len(), 0.0);
        }
        let ids = SpecialIds { bos: bos.map(u32::from), ..Default::default() };
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let merges = merges.iter().map(String::as_str).collect();
        let space_prefix = Some(["never", "every", "every-missing", "first", "first-missing"][prefix])
            .map(|name| SpacePrefix::by_name(name).unwrap());
        let matching = Matching {
            lstrip: flagged.clone(), rstrip: flagged.iter().skip(1).copied().collect(),
            single_word: flagged.iter().skip(3).copied().collect(), normalized: flagged.iter().rev().take(2).copied().collect(),
        };
        let normalizer = steps.iter().map(String::as_str).collect();
        let spec = VocabularySpec {
            model, pre, tokens, types, scores, merges, ids, space_prefix, matching, normalizer, split_spaces,
            ends: flagged, ..Default::default()
        };
        if let Ok(tokenizer) = Tokenizer::new(&spec) {
            for special in [Special::Plain, Special::Parse] {
                let tokens = tokenizer.encode_with_bos(&text, special).unwrap_or_default();
                prop_assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocabulary_size()));
                tokenizer.decode(&tokens);
            }
        }
    }

    #[test]
    fn sentence_piece_loses_nothing(text: String) {
        let golden = Golden::read("sentence_piece.json");
        let tokenizer = Tokenizer::new(&golden.spec()).unwrap();
        let tokens = tokenizer.encode(&text, Special::Plain).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens), text.replace('▁', " "));
    }
}

#[test]
fn a_megabyte_of_anything_is_encoded_in_time() {
    let start = std::time::Instant::now();
    for name in ["byte_level.json", "sentence_piece.json"] {
        let golden = Golden::read(name);
        let tokenizer = Tokenizer::new(&golden.spec()).unwrap();
        for unit in [" ", "a", "\n", "\t ", "ab ", "Meer", "'", "1", "日", "\u{301}", "<|im_end|"] {
            let text = unit.repeat((1 << 18) / unit.len());
            assert_eq!(tokenizer.decode(&tokenizer.encode(&text, Special::Parse).unwrap()), text, "{unit:?}");
        }
    }
    // Linear work takes about a second here unoptimized; quadratic work would take an hour.
    assert!(start.elapsed().as_secs() < 120);
}

#[test]
fn broken_specs_are_errors() {
    let golden = Golden::read("byte_level.json");
    let good = golden.spec();
    let bos = |bos| SpecialIds { bos: Some(bos), ..Default::default() };
    let cases = [
        (VocabularySpec { model: "bert", ..good.clone() }, "model is \"bert\""),
        (VocabularySpec { pre: "no-such", ..good.clone() }, "pre is \"no-such\""),
        (VocabularySpec { ids: bos(700), ..good.clone() }, "bos_token_id"),
        (VocabularySpec { merges: vec!["a"], ..good.clone() }, "merges[0]"),
        (VocabularySpec { types: vec![6; good.tokens.len()], ..good.clone() }, "tokens[1]"),
        (VocabularySpec { types: vec![1], ..good.clone() }, "token_type"),
        (VocabularySpec { tokens: vec![], ..good.clone() }, "tokens"),
    ];
    for (spec, expected) in cases {
        let message = Tokenizer::new(&spec).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    assert_eq!(Tokenizer::new(&VocabularySpec { ids: bos(u32::MAX), ..good }).unwrap().bos(), None);
}

/// Some writers have only one type for arrays without elements.
#[test]
fn empty_lists_may_be_of_any_type() {
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    metadata.set("tokenizer.ggml.merges", Vec::<i32>::new());
    assert!(Tokenizer::from_metadata(&metadata).unwrap().is_some());
    metadata.set("tokenizer.ggml.merges", vec![1i32]);
    assert!(Tokenizer::from_metadata(&metadata).is_err());
}

#[test]
fn bytes_without_a_token_are_unknown_or_an_error() {
    let spec = VocabularySpec { model: "gpt2", tokens: vec!["a", "b", "<?>"], ..Default::default() };
    let error = Tokenizer::new(&spec).unwrap().encode("ac", Special::Plain).unwrap_err();
    assert!(error.to_string().contains("0x63"), "{error}");
    let ids = SpecialIds { unknown: Some(2), ..Default::default() };
    let tokenizer = Tokenizer::new(&VocabularySpec { ids, ..spec }).unwrap();
    assert_eq!(tokenizer.encode("acb", Special::Plain).unwrap(), [0, 2, 1]);
}

/// The vectors of llama.cpp: `ggml-vocab-X.gguf` with texts (`.inp`) and ids (`.out`) beside it.
#[test]
#[ignore = "needs the folder of llama.cpp's ggml-vocab-*.gguf in MOEWE_VOCABULARIES"]
fn llama_cpp_vectors() {
    const SKIPPED: &[&str] = &["bert-bge"]; // WordPiece
    let folder = PathBuf::from(std::env::var_os("MOEWE_VOCABULARIES").unwrap());
    let mut results = Vec::new();
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names.iter().filter(|path| path.extension().is_some_and(|ending| ending == "gguf")) {
        let name = path.file_stem().unwrap().to_string_lossy().replace("ggml-vocab-", "");
        let read = |ending: &str| std::fs::read_to_string(path.with_extension(ending)).unwrap_or_default();
        let file = crate::gguf::Gguf::open(path).unwrap();
        let start = std::time::Instant::now();
        let tokenizer = Tokenizer::from_metadata(file.metadata());
        let built_ms = start.elapsed().as_millis();
        let (texts, expected) = (read("gguf.inp"), read("gguf.out"));
        if texts.is_empty() || SKIPPED.contains(&name.as_str()) {
            results.push(format!("{name}: no vectors, {:?}", tokenizer.err().map(|error| error.to_string())));
            continue;
        }
        let tokenizer = tokenizer.unwrap().unwrap();
        let cases: Vec<_> = texts.split("\n__ggml_vocab_test__\n").zip(expected.lines()).collect();
        let wrong: Vec<String> = cases
            .iter()
            .map(|(text, ids)| (text, ids, tokenizer.encode(text, Special::Plain).unwrap()))
            .filter(|(_, ids, found)| {
                ids.split_whitespace().map(|id| id.parse::<u32>().unwrap()).ne(found.iter().copied())
            })
            .map(|(text, ids, found)| format!("  {text:?}: {found:?}, expected {ids}"))
            .collect();
        let size = tokenizer.vocabulary_size();
        results.push(format!(
            "{name}: {} of {} wrong, {size} tokens in {built_ms} ms",
            wrong.len(),
            cases.len()
        ));
        results.extend(wrong);
    }
    assert!(!results.iter().any(|line| line.starts_with("  ")), "{}", results.join("\n"));
}
