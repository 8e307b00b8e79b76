//! Tokenizers in their variety: spaces that are put before a text, and tokens that lie beside tokenizer.json.

use super::super::Vocabulary;
use std::path::Path;

/// A tokenizer of SentencePiece's kind, with `a`, a space and it joined, and control tokens.
fn spaced(folder: &Path, scheme: &str) -> Vocabulary {
    let special = |id: u32, content: &str| serde_json::json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let vocabulary =
        serde_json::json!({"<s>": 0, "</s>": 1, "▁": 2, "a": 3, "▁a": 4, "<": 5, "/": 6, "s": 7, ">": 8});
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [special(0, "<s>"), special(1, "</s>")], "normalizer": null, "post_processor": null,
        "decoder": null, "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["▁", "a"]]}
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Vocabulary::open(folder).unwrap()
}

/// A stretch between control tokens has the ids that it has in its text, whether or not a message spells one.
#[test]
fn a_space_comes_only_before_what_begins_a_text() {
    let folder = tempfile::tempdir().unwrap();
    for (scheme, first, later) in [("first", 4, 3), ("always", 4, 4), ("never", 3, 3)] {
        let vocabulary = spaced(folder.path(), scheme);
        let plain = vocabulary.encode("a<s>a a</s>", &[]).unwrap();
        assert_eq!(plain.tokens, [first, 0, later, 4, 1], "{scheme}");
        assert_eq!(plain.places, [0..1, 1..4, 4..5, 5..7, 7..11]);
        // The same with </s> from a message at the end, then also with one in the middle.
        let text = "a<s>a a</s>a";
        let spelled = vocabulary.encode(text, std::slice::from_ref(&(7..8))).unwrap();
        let letters = [5, 6, 7, 8, 3];
        assert_eq!(spelled.tokens, [&[first, 0, later, 4][..], &letters].concat(), "{scheme}");
        assert_eq!(spelled.places.last(), Some(&(11..12)));
        assert!(spelled.spells_control && !plain.spells_control);
        let whole: Vec<_> = spelled.places.iter().map(|place| &text[place.clone()]).collect();
        assert_eq!(whole.concat(), text);
    }
}

#[test]
fn files_beside_the_tokenizer_name_ends() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let open = || spaced(folder.path(), "never");
    assert_eq!((open().bos().to_owned(), open().eos().to_owned()), (String::new(), String::new()));
    let error = open().encode_text(&mut "a".to_owned()).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "tokenizer.json: tokenizer_config.json: expected an eos_token, which ends a text, found none"
        ),
        "{error}"
    );
    write("config.json", r#"{"bos_token_id": 0, "eos_token_id": [1, 3]}"#);
    assert_eq!((open().bos().to_owned(), open().eos().to_owned()), ("<s>".to_owned(), "</s>".to_owned()));
    assert!([1, 3].iter().all(|&id| open().is_end(id)) && !open().is_end(0));
    write("tokenizer_config.json", r#"{"bos_token": null, "eos_token": {"content": "<s>"}}"#);
    assert_eq!((open().bos().to_owned(), open().eos().to_owned()), (String::new(), "<s>".to_owned()));
    write("tokenizer_config.json", "{");
    let error = Vocabulary::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer_config.json: expected JSON"), "{error}");
    write("tokenizer.json", "{}");
    let error = Vocabulary::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json: expected a tokenizer of Hugging Face"), "{error}");
}
