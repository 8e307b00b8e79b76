//! What transformers makes of the same conversations (`train/tests/chat/make.py`).

use super::*;
use serde_json::Value as Json;

/// Text, tokens and masks, from `generation` blocks and without them.
#[test]
fn texts_tokens_and_masks_are_those_of_transformers() {
    // Another folder in which make.py has run can be named: tokenizers of real models are too large to be in here.
    let named = std::env::var_os("MOEWE_CHAT_REFERENCE").map(PathBuf::from);
    compare(&named.unwrap_or_else(reference));
}

fn compare(reference: &Path) {
    let expected = std::fs::read(reference.join("expected.json")).unwrap();
    let expected: Json = serde_json::from_slice(&expected).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    for (name, templates) in expected["templates"].as_object().unwrap() {
        for tags in ["with", "without"] {
            let folder = Folder::with_tokenizer(reference, templates[tags].as_str());
            assert_eq!(folder.wording().has_blocks(), tags == "with");
            for case in cases.iter().filter(|case| case["template"] == **name) {
                let line = serde_json::json!({ "messages": case["messages"] }).to_string();
                let masked = folder.masked(512, &[&line]).unwrap();
                let place = format!("{name} {tags} blocks: {line}");
                assert_eq!(masked[0].text, case["text"].as_str().unwrap(), "{place}");
                assert_eq!(Json::from(masked[0].encoded.tokens.clone()), case["tokens"], "{place}");
                let mask: Vec<u8> =
                    masked[0].trained.iter().map(|&is_trained| u8::from(is_trained)).collect();
                assert_eq!(Json::from(mask), case["mask"], "{place}");
                assert_eq!(masked[0].notes, []);
            }
        }
    }
}

/// The row of two conversations with which packed and unpacked losses were compared.
#[test]
fn rows_are_conversations_side_by_side() {
    let folder =
        Folder::new(Some(&std::fs::read_to_string(reference().join("chat_template.jinja")).unwrap()));
    let expected = std::fs::read(reference().join("expected.json")).unwrap();
    let expected: Json = serde_json::from_slice(&expected).unwrap();
    let lines: Vec<String> = (0..2)
        .map(|at| serde_json::json!({ "messages": expected["cases"][at]["messages"] }).to_string())
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let data = [folder.write("data.jsonl", &lines)];
    let rows = folder.prepared(&settings(&data, 121)).unwrap();
    assert_eq!(rows.train.len(), 1);
    assert_eq!(rows.train[0].segments, [81, 40]);
    let whole = |key: &str| [0, 1].map(|at| expected["cases"][at][key].as_array().unwrap().clone()).concat();
    assert_eq!(Json::from(rows.train[0].tokens.clone()), Json::from(whole("tokens")));
    let mask: Vec<u8> = rows.train[0].trained.iter().map(|&is_trained| u8::from(is_trained)).collect();
    assert_eq!(Json::from(mask), Json::from(whole("mask")));
    assert_eq!(rows.train[0].labels(), 26);
    // One token less, and they need a row each.
    assert_eq!(folder.prepared(&settings(&data, 120)).unwrap().train.len(), 2);
}
