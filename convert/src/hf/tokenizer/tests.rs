//! Tokenizer files of tests/golden/tokenizer, converted and held to the ids of independent tokenizers.

use super::*;
use moewe_engine::tokenizer::Special;
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer").join(name)
}

fn metadata(folder: &Path, rows: u64) -> Metadata {
    tokenizer_metadata(folder, rows).unwrap().unwrap().into_iter().collect()
}

/// A folder with `files`.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn check_cases(tokenizer: &Tokenizer, cases: &Path) {
    let golden: Json = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let expected: Vec<u32> =
            case[1].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let text = case[0].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, Special::Plain).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn golden_files_give_golden_ids() {
    let sources = [
        ("tokenizer.json", "byte_level.tokenizer.json", "byte_level.json", "gpt2", 700),
        ("tokenizer.json", "byte_level_strings.tokenizer.json", "byte_level.json", "gpt2", 700),
        ("tokenizer.json", "sentence_piece.tokenizer.json", "sentence_piece.json", "llama", 650),
        ("tokenizer.model", "sentence_piece.model", "sentence_piece.json", "llama", 650),
        ("tokenizer.model", "prepared.model", "prepared.json", "llama", 300),
    ];
    for (name, file, cases, model, rows) in sources {
        let folder = folder(&[(name, &std::fs::read(golden(file)).unwrap()[..])]);
        let metadata = metadata(folder.path(), rows);
        assert_eq!(metadata.require_str("tokenizer.ggml.model").unwrap(), model, "{file}");
        let tokenizer = Tokenizer::from_metadata(&metadata).unwrap().unwrap();
        assert_eq!(tokenizer.vocabulary_size(), rows as usize);
        check_cases(&tokenizer, &golden(cases));
    }
}

/// Gemma 4's spaces are written `▁` and nothing goes before a text; llama.cpp has a model of its own for its merges.
#[test]
fn gemma_4_goes_by_merges() {
    let mut json: Json =
        serde_json::from_slice(&std::fs::read(golden("sentence_piece.tokenizer.json")).unwrap()).unwrap();
    json["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"String": " "},
        "behavior": "MergedWithPrevious", "invert": false});
    json["post_processor"] = Json::Null;
    let text = json.to_string();
    for (config, model) in [
        (r#"{"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}"#, "gemma4"),
        (r#"{"model_type": "gemma3_text"}"#, "llama"),
    ] {
        let folder = folder(&[("tokenizer.json", text.as_bytes()), ("config.json", config.as_bytes())]);
        let metadata = metadata(folder.path(), 650);
        assert_eq!(metadata.require_str("tokenizer.ggml.model").unwrap(), model);
        assert_eq!(metadata.get("tokenizer.ggml.merges").is_some(), model == "gemma4");
        let tokenizer = Tokenizer::from_metadata(&metadata).unwrap().unwrap();
        let mut original: tokenizers::Tokenizer = text.parse().unwrap();
        original.set_encode_special_tokens(true);
        for text in ["Die Möwe fliegt  weit.", "  if x:\n\t\treturn 7", "ein 🐦 am Meer"] {
            let expected = original.encode(text, false).unwrap();
            assert_eq!(
                tokenizer.encode(text, Special::Plain).unwrap(),
                expected.get_ids(),
                "{model}: {text:?}"
            );
        }
    }
}

#[test]
fn sentence_piece_brings_its_roles() {
    let folder = folder(&[("tokenizer.model", &std::fs::read(golden("sentence_piece.model")).unwrap()[..])]);
    let tokenizer = Tokenizer::from_metadata(&metadata(folder.path(), 642)).unwrap().unwrap();
    let ids = tokenizer.ids();
    assert_eq!((ids.unknown, ids.bos, ids.eos, ids.padding), (Some(0), Some(1), Some(2), None));
    assert!(tokenizer.add_bos() && tokenizer.token_text(641) == "[PAD641]");
}

#[test]
fn ranks_give_back_the_merges() {
    let golden_json: Json =
        serde_json::from_slice(&std::fs::read(golden("byte_level.json")).unwrap()).unwrap();
    let ranks = tiktoken::ranks(&std::fs::read(golden("byte_level.tiktoken")).unwrap(), 1000).unwrap();
    let tokens = tiktoken::tokens(&ranks, 1000).unwrap();
    let expected: Vec<&str> =
        golden_json["merges"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    assert_eq!(tokens.merges, expected);
    let mut metadata = Metadata::new();
    Tokens { pre: Some("gpt-2"), ..tokens }.write(1000, &mut metadata);
    check_cases(&Tokenizer::from_metadata(&metadata).unwrap().unwrap(), &golden("ranks.json"));
}

#[test]
fn roles_and_flags() {
    let json = std::fs::read(golden("byte_level.tokenizer.json")).unwrap();
    let config =
        br#"{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "add_bos_token": true,
        "added_tokens_decoder": {"701": {"content": "<extra>", "special": false}}}"#;
    let model = br#"{"pad_token_id": 0, "eos_token_id": [5, 6]}"#;
    let generation = br#"{"eos_token_id": [2, 6, 7]}"#;
    let files: &[(&str, &[u8])] = &[
        ("tokenizer.json", &json),
        ("tokenizer_config.json", config),
        ("config.json", model),
        ("generation_config.json", generation),
    ];
    let with_config = folder(files);
    let metadata_found = metadata(with_config.path(), 704);
    let tokenizer = Tokenizer::from_metadata(&metadata_found).unwrap().unwrap();
    let ids = tokenizer.ids();
    assert_eq!((ids.bos, ids.eos, ids.padding, tokenizer.add_bos()), (Some(1), Some(2), Some(0), true));
    assert_eq!(tokenizer.encode("<extra>", Special::Plain).unwrap(), [701]);
    assert!([2, 5, 6, 7].iter().all(|&id| tokenizer.is_end(id)) && !tokenizer.is_end(8));
    assert_eq!((ids.eot, ids.eom), (Some(6), Some(7)), "as far as GGUF's own roles go");
    assert_eq!((tokenizer.token_text(700), tokenizer.token_text(703)), ("[PAD700]", "[PAD703]"));
}

#[test]
fn what_cannot_be_carried_over_is_refused() {
    let byte_level = std::fs::read_to_string(golden("byte_level.tokenizer.json")).unwrap();
    let unigram = byte_level.replace("\"BPE\"", "\"Unigram\"");
    let spm = std::fs::read(golden("sentence_piece.model")).unwrap();
    let cases: &[(&str, &[u8], u64, &str)] = &[
        ("tokenizer.json", byte_level.as_bytes(), 500, "the rows of the embedding"),
        ("tokenizer.json", unigram.as_bytes(), 700, "Unigram"),
        ("tokenizer.json", b"{", 700, "expected JSON"),
        ("tokenizer.json", b"{}", 700, "tokenizer"),
        ("tokenizer.model", &spm[..spm.len() / 2], 700, "a whole message"),
        ("tokenizer.model", b"\xFF\xFF", 700, "protobuf"),
        ("x.tiktoken", b"IQ== 0", 700, "tiktoken"),
        ("tekken.json", b"{}", 700, "tekken.json"),
        ("vocab.txt", b"a", 700, "vocab.txt"),
    ];
    for (name, content, rows, expected) in cases {
        let folder = folder(&[(*name, *content)]);
        let message = tokenizer_metadata(folder.path(), *rows).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
    assert!(tokenizer_metadata(folder(&[]).path(), 5).unwrap().is_none());
}

/// A byte-level tokenizer.json with some of its fields replaced.
fn byte_level(changes: Json) -> Json {
    let mut json: Json =
        serde_json::from_slice(&std::fs::read(golden("byte_level.tokenizer.json")).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json
}

/// The golden SentencePiece-style tokenizer.json likewise.
fn characters(changes: Json) -> Json {
    let mut json: Json =
        serde_json::from_slice(&std::fs::read(golden("sentence_piece.tokenizer.json")).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json
}

fn added(id: u32, content: &str, flag: &str) -> Json {
    let mut token = json!({"id": id, "content": content, "special": true, "normalized": false, "lstrip": false,
        "rstrip": false, "single_word": false});
    token[flag] = true.into();
    token
}

/// What is written has the ids of Hugging Face's library for hundreds of texts, or it is not written: here is what is.
#[test]
fn pipelines_of_hugging_face_are_followed() {
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let sequence = |parts: Json| json!({"type": "Sequence", "normalizers": parts});
    let spaces = json!([{"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]);
    let prefixed =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let edges = [
        added(512, "<l>", "lstrip"),
        added(513, "<r>", "rstrip"),
        added(514, "word", "single_word"),
        added(515, "ÉTÉ", "normalized"),
    ];
    let quotes = json!([{"type": "Replace", "pattern": {"Regex": "[“”]"}, "content": "\""}, {"type": "NFD"},
        {"type": "StripAccents"}, {"type": "Strip", "strip_left": true, "strip_right": true}]);
    let folders = [
        ("NFC", byte_level(json!({"normalizer": {"type": "NFC"}}))),
        (
            "lower case",
            byte_level(json!({"normalizer": sequence(json!([{"type": "NFKC"}, {"type": "Lowercase"}]))})),
        ),
        ("replacements", byte_level(json!({"normalizer": sequence(quotes)}))),
        ("a space first", byte_level(json!({"pre_tokenizer": prefixed}))),
        ("edges", byte_level(json!({"added_tokens": edges, "normalizer": {"type": "Lowercase"}}))),
        ("first", characters(json!({"normalizer": null, "pre_tokenizer": metaspace("first", false)}))),
        ("always", characters(json!({"normalizer": null, "pre_tokenizer": metaspace("always", false)}))),
        ("never", characters(json!({"normalizer": null, "pre_tokenizer": metaspace("never", false)}))),
        ("words", characters(json!({"normalizer": null, "pre_tokenizer": metaspace("always", true)}))),
        ("steps", characters(json!({"normalizer": sequence(spaces.clone())}))),
        (
            "later",
            characters(json!({"normalizer": sequence(spaces),
            "added_tokens": [added(640, "<n>", "normalized"), added(1, "<s>", "special")]})),
        ),
    ];
    for (what, json) in folders {
        let folder = folder(&[("tokenizer.json", json.to_string().as_bytes())]);
        let entries =
            tokenizer_metadata(folder.path(), 700).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(entries.is_some(), "{what}");
    }
}

/// Byte-fallback BPE that Hugging Face trained: some ways to a token are no merges, so scores cannot tell the order.
#[test]
fn merges_without_scores_are_kept() {
    let mut json = characters(json!({}));
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    let mut count = 0;
    merges.retain(|_| {
        count += 1;
        count % 3 != 0
    });
    let folder = folder(&[("tokenizer.json", json.to_string().as_bytes())]);
    let metadata = metadata(folder.path(), 650);
    let kept = metadata.array("moewe.tokenizer.merges").unwrap().unwrap().len();
    assert_eq!(kept, json["model"]["merges"].as_array().unwrap().len());
}

/// The comparison itself notices: the same vocabulary under a pipeline that the written keys do not carry.
#[test]
fn other_ids_are_refused() {
    let plain = folder(&[("tokenizer.json", byte_level(json!({})).to_string().as_bytes())]);
    let tokenizer = Tokenizer::from_metadata(&metadata(plain.path(), 700)).unwrap().unwrap();
    for changes in [
        json!({"normalizer": {"type": "Lowercase"}}),
        json!({"normalizer": {"type": "NFC"}}),
        json!({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}}),
        json!({"added_tokens": [added(3, "aaa", "normalized")]}),
    ] {
        let message = verify::compare(&byte_level(changes.clone()), &tokenizer).unwrap_err().to_string();
        assert!(message.contains("in the original and would have"), "{changes}: {message}");
    }
    verify::compare(&byte_level(json!({})), &tokenizer).unwrap();
}

/// A tokenizer.model of another vocabulary beside a tokenizer.json, as a fine-tune leaves it: the latter counts.
#[test]
fn a_stale_sentence_piece_model_does_not_count() {
    let json = characters(json!({})).to_string();
    let stale = std::fs::read(golden("prepared.model")).unwrap();
    let folder = folder(&[("tokenizer.json", json.as_bytes()), ("tokenizer.model", &stale)]);
    let tokenizer = Tokenizer::from_metadata(&metadata(folder.path(), 650)).unwrap().unwrap();
    check_cases(&tokenizer, &golden("sentence_piece.json"));
}

/// As slow tokenizers save it: tokenizer.model, added_tokens.json and names of roles.
#[test]
fn added_tokens_json_counts_without_a_tokenizer_json() {
    let model = std::fs::read(golden("sentence_piece.model")).unwrap();
    let files: &[(&str, &[u8])] = &[
        ("tokenizer.model", &model),
        ("added_tokens.json", br#"{"<|im_end|>": 641, "<tool>": 640}"#),
        ("special_tokens_map.json", br#"{"eos_token": "<|im_end|>", "bos_token": {"content": "<s>"}}"#),
        ("tokenizer_config.json", br#"{"legacy": false}"#),
    ];
    let tokenizer = Tokenizer::from_metadata(&metadata(folder(files).path(), 650)).unwrap().unwrap();
    assert_eq!(
        (tokenizer.eos(), tokenizer.token_text(640), tokenizer.token_text(641)),
        (Some(641), "<tool>", "<|im_end|>")
    );
    assert!(tokenizer.is_control(641) && !tokenizer.is_control(640));
    let encode = |text| tokenizer.encode(text, Special::Parse).unwrap();
    let parts = [&encode("Möwe")[..], &[640], &encode("<tool>Möwe")[1..]].concat();
    assert_eq!(encode("Möwe<tool>Möwe"), parts);
    assert_ne!(encode("<tool>Möwe")[1..], encode("Möwe"), "without legacy, no space goes behind a token");
}

#[test]
fn vocab_and_merges_need_a_class() {
    let json = byte_level(json!({}));
    let vocabulary = json["model"]["vocab"].to_string();
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges: Vec<String> =
        merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect();
    let merges = format!("#version: 0.2\n{}\n", merges.join("\n"));
    let read = |config: &str, model: &str| {
        let folder = folder(&[
            ("vocab.json", vocabulary.as_bytes()),
            ("merges.txt", merges.as_bytes()),
            ("tokenizer_config.json", config.as_bytes()),
            ("config.json", model.as_bytes()),
        ]);
        tokenizer_metadata(folder.path(), 700)
    };
    let gpt2 = read(r#"{"tokenizer_class": "GPT2TokenizerFast"}"#, "{}").unwrap().unwrap();
    let tokenizer = Tokenizer::from_metadata(&gpt2.into_iter().collect()).unwrap().unwrap();
    let mut original: tokenizers::Tokenizer = byte_level(json!({"pre_tokenizer": {"type": "ByteLevel",
        "add_prefix_space": false, "trim_offsets": true, "use_regex": true}}))
    .to_string()
    .parse()
    .unwrap();
    original.set_encode_special_tokens(true);
    for text in ["Die Möwe fliegt 1234 Meilen.", "  if x:\n\t\treturn"] {
        let expected = original.encode(text, false).unwrap();
        assert_eq!(tokenizer.encode(text, Special::Plain).unwrap(), expected.get_ids(), "{text:?}");
    }
    let qwen: Metadata = read("{}", r#"{"model_type": "qwen3_moe"}"#).unwrap().unwrap().into_iter().collect();
    assert_eq!(qwen.require_str("tokenizer.ggml.pre").unwrap(), "qwen2");
    let qwen: Metadata =
        read("{}", r#"{"model_type": "qwen3_5_moe"}"#).unwrap().unwrap().into_iter().collect();
    assert_eq!(qwen.require_str("tokenizer.ggml.pre").unwrap(), "qwen35");
    let message = read("{}", r#"{"model_type": "mixtral"}"#).unwrap_err().to_string();
    assert!(message.contains("vocab.json") && message.contains("GPT2Tokenizer"), "{message}");
}

#[test]
fn roles_that_contradict_the_vocabulary_are_errors() {
    let json = byte_level(json!({})).to_string();
    let two = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<|im_start|>":
        {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}});
    let framed = byte_level(json!({"post_processor": two})).to_string();
    let read = |json: &str, config: &str| {
        let folder =
            folder(&[("tokenizer.json", json.as_bytes()), ("tokenizer_config.json", config.as_bytes())]);
        tokenizer_metadata(folder.path(), 700)
    };
    for (config, expected) in [
        (r#"{"eos_token": "<end>"}"#, "eos_token: expected a token of the vocabulary"),
        (r#"{"added_tokens_decoder": {"2": {"content": "<renamed>"}}}"#, "as tokenizer.json has it"),
    ] {
        let message = read(&json, config).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert!(read(&json, r#"{"pad_token": "<pad>"}"#).is_ok(), "padding is for training");
    // What goes before a text is BOS, whatever is called so.
    let found: Metadata =
        read(&framed, r#"{"bos_token": "<|endoftext|>"}"#).unwrap().unwrap().into_iter().collect();
    assert_eq!(
        Tokenizer::from_metadata(&found).unwrap().unwrap().encode_with_bos("", Special::Plain).unwrap(),
        [1]
    );
}

/// Two added tokens with the text of others: Hugging Face keeps the vocabulary's ids.
#[test]
fn an_added_token_has_the_id_of_its_text() {
    let json = byte_level(json!({"added_tokens": [added(699, "a", "special")]})).to_string();
    let folder = folder(&[("tokenizer.json", json.as_bytes())]);
    let tokenizer = Tokenizer::from_metadata(&metadata(folder.path(), 700)).unwrap().unwrap();
    let id = tokenizer.id_of("a").unwrap();
    assert!(id < 699 && tokenizer.is_control(id) && tokenizer.token_text(699) == "[PAD699]");
}

/// Real tokenizer files: folders with a `cases.json` of `{"rows": …, "cases": [[text, ids], …]}` beside them, the ids
/// from Hugging Face's own library.
#[test]
#[ignore = "needs a folder of folders with real tokenizer files in MOEWE_TOKENIZERS"]
fn real_files() {
    let folders = PathBuf::from(std::env::var_os("MOEWE_TOKENIZERS").unwrap());
    let mut failures = Vec::new();
    for folder in std::fs::read_dir(folders).unwrap().map(|entry| entry.unwrap().path()) {
        let golden: Json =
            serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
        let metadata = match tokenizer_metadata(&folder, golden["rows"].as_u64().unwrap()) {
            Ok(entries) => entries.unwrap().into_iter().collect::<Metadata>(),
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        let tokenizer = Tokenizer::from_metadata(&metadata).unwrap().unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let expected = case[1].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
            let found = tokenizer.encode(case[0].as_str().unwrap(), Special::Plain).unwrap();
            if let Some(at) = expected.clone().zip(&found).position(|(a, b)| a != *b) {
                let around = |tokens: &[u32]| tokens[at.saturating_sub(2)..tokens.len().min(at + 5)].to_vec();
                let expected: Vec<u32> = expected.collect();
                let text = tokenizer.decode(&around(&expected));
                failures.push(format!("{folder:?}: {text:?} {:?} {:?}", around(&expected), around(&found)));
            } else if expected.len() != found.len() {
                failures.push(format!("{folder:?}: {} tokens, expected {}", found.len(), expected.len()));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}
