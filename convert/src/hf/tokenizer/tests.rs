//! Tokenizer files of tests/golden/tokenizer, converted and held to the ids of independent tokenizers.

use super::*;
use moewe_engine::tokenizer::Special;
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
    assert!(cases.len() > 40);
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
}

#[test]
fn roles_flags_and_templates() {
    let json = std::fs::read(golden("byte_level.tokenizer.json")).unwrap();
    let config =
        br#"{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "add_bos_token": true,
        "added_tokens_decoder": {"701": {"content": "<extra>", "special": false}},
        "chat_template": [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let model = br#"{"pad_token_id": 0, "eos_token_id": [5, 6]}"#;
    let files: &[(&str, &[u8])] =
        &[("tokenizer.json", &json), ("tokenizer_config.json", config), ("config.json", model)];
    let with_config = folder(files);
    let metadata_found = metadata(with_config.path(), 704);
    let tokenizer = Tokenizer::from_metadata(&metadata_found).unwrap().unwrap();
    let ids = tokenizer.ids();
    assert_eq!((ids.bos, ids.eos, ids.padding, tokenizer.add_bos()), (Some(1), Some(2), Some(0), true));
    assert_eq!(tokenizer.encode("<extra>", Special::Plain).unwrap(), [701]);
    assert_eq!((tokenizer.token_text(700), tokenizer.token_text(703)), ("[PAD700]", "[PAD703]"));
    assert_eq!(metadata_found.str("tokenizer.chat_template").unwrap(), Some("D"));
    assert_eq!(metadata_found.str("tokenizer.chat_template.tools").unwrap(), Some("T"));
    let with_file = folder(&[files, &[("chat_template.jinja", &b"J"[..])]].concat());
    assert_eq!(metadata(with_file.path(), 704).str("tokenizer.chat_template").unwrap(), Some("J"));
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
    ];
    for (name, content, rows, expected) in cases {
        let folder = folder(&[(*name, *content)]);
        let message = tokenizer_metadata(folder.path(), *rows).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
    assert!(tokenizer_metadata(folder(&[]).path(), 5).unwrap().is_none());
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
