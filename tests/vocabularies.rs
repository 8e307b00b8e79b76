//! Files are compared token by token: the same number of tokens makes no common vocabulary.

#[path = "support/command.rs"]
mod command;
mod support;

use command::{moewe, stderr};
use moewe_engine::gguf::{Array, Gguf, Strings, Value, Writer};
use std::path::Path;
use std::process::Output;
use support::Tiny;

/// A copy of a model whose tokens have other names or kinds.
fn renamed(source: &Path, target: &Path, change: impl Fn(&mut Vec<String>, &mut Vec<i32>)) {
    let gguf = Gguf::open(source).unwrap();
    let mut metadata = gguf.metadata().clone();
    let array = |key: &str| metadata.get(key).unwrap().as_array().unwrap().clone();
    let strings = array("tokenizer.ggml.tokens");
    let mut tokens: Vec<String> = strings.as_strings().unwrap().map(str::to_owned).collect();
    let mut kinds: Vec<i32> = (0..tokens.len()).map(|token| if token < 256 { 1 } else { 3 }).collect();
    change(&mut tokens, &mut kinds);
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::Strings(Strings::new(&tokens))));
    metadata.set("tokenizer.ggml.token_type", kinds);
    let tensors =
        gguf.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.format, tensor.shape.clone()));
    let mut writer = Writer::new(metadata, tensors.collect()).unwrap().create(target).unwrap();
    gguf.tensors().iter().for_each(|tensor| writer.write_tensor(&gguf.bytes(tensor)).unwrap());
    writer.finish().unwrap();
}

#[test]
fn files_of_other_vocabularies_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("text"), "the quick brown fox ".repeat(20)).unwrap();
    Tiny::default().write(&path("tiny.gguf"));
    renamed(&path("tiny.gguf"), &path("other.gguf"), |tokens, _| tokens.swap(97, 98));
    let compare = |base: &str, other: &str| -> Output {
        let arguments = ["compare", base, other, "--text", "text", "-c", "64"];
        moewe(folder.path()).args(arguments).output().unwrap()
    };
    for (base, other) in [("tiny.gguf", "other.gguf"), ("other.gguf", "tiny.gguf")] {
        let output = compare(base, other);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let expected = format!("error: {other} has another vocabulary than {base}: token 97");
        assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
    }
    // Tokens without a meaning are called as each converter likes.
    for name in ["<pad>", "[PAD256]"] {
        renamed(&path("tiny.gguf"), &path(name).with_extension("gguf"), |tokens, kinds| {
            tokens[256] = name.to_owned();
            kinds[256] = 5;
        });
    }
    let output = compare("<pad>.gguf", "[PAD256].gguf");
    assert!(output.status.success(), "{}", stderr(&output));
}
