//! Which files are read, which are named as left over, and what is said where there are none to read.

use super::*;
use serde_json::json;

/// A folder with these files, empty but for the indices, which name the shards that follow `=`.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let (name, shards) = file.split_once('=').unwrap_or((file, ""));
        let map: serde_json::Map<_, _> =
            shards.split(',').enumerate().map(|(i, shard)| (i.to_string(), shard.into())).collect();
        std::fs::write(folder.path().join(name), json!({ "weight_map": map }).to_string()).unwrap();
    }
    folder
}

fn found(files: &[&str], config: &Value) -> Result<(Vec<String>, String)> {
    let folder = folder(files);
    let found = weight_files(folder.path(), config)?;
    let names = found.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    Ok((names.collect(), found.leftovers.join("; ")))
}

#[test]
fn a_whole_file_goes_before_an_index_and_safetensors_before_pickles() {
    let index = "model.safetensors.index.json=a.safetensors,b.safetensors";
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["model.safetensors"], &["model.safetensors"], &[]),
        (&["model.safetensors", "training_args.bin"], &["model.safetensors"], &[]),
        (
            &["model.safetensors", index, "a.safetensors", "b.safetensors"],
            &["model.safetensors"],
            &["a.safetensors, b.safetensors, model.safetensors.index.json", "model.safetensors goes first"],
        ),
        (&["model.safetensors", index], &["model.safetensors"], &["model.safetensors.index.json"]),
        (
            &[index, "a.safetensors", "b.safetensors", "c.safetensors", "consolidated.00.pth"],
            &["a.safetensors", "b.safetensors"],
            &["c.safetensors, consolidated.00.pth"],
        ),
        (
            &["pytorch_model.bin", index, "a.safetensors", "b.safetensors"],
            &["a.safetensors", "b.safetensors"],
            &["pytorch_model.bin"],
        ),
        (
            &["consolidated.safetensors", "pytorch_model.bin"],
            &["pytorch_model.bin"],
            &["consolidated.safetensors"],
        ),
        (&["x.safetensors", "x.bin"], &["x.safetensors"], &["x.bin (safetensors go first)"]),
    ];
    for (files, read, said) in cases {
        let (names, leftovers) = found(files, &json!({})).unwrap();
        assert_eq!(names, *read, "{files:?}");
        assert_eq!(leftovers.is_empty(), said.is_empty(), "{files:?}: {leftovers}");
        said.iter().for_each(|said| assert!(leftovers.contains(said), "{files:?}: {leftovers}"));
    }
}

#[test]
fn a_configuration_may_name_the_file() {
    let config = json!({ "transformers_weights": "b.safetensors" });
    let (names, leftovers) = found(&["model.safetensors", "b.safetensors"], &config).unwrap();
    assert_eq!(names, ["b.safetensors"]);
    assert!(leftovers.contains("model.safetensors (b.safetensors goes first)"), "{leftovers}");
    assert!(found(&["model.safetensors"], &json!({ "transformers_weights": "../x" })).is_err());
}

#[test]
fn what_is_missing_is_named() {
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["no weights"]),
        (&["adapter_config.json", "adapter_model.safetensors"], &["adapter", "merge it into its base"]),
        (
            &["adapter_config.json", "model.safetensors"],
            &["merge it into its base", "remove adapter_config.json"],
        ),
        (
            &["model.safetensors.index.json=a.safetensors,b.safetensors", "a.safetensors"],
            &["model.safetensors.index.json", "1 of 2 shards are missing: b.safetensors", "incomplete"],
        ),
        (&["a.safetensors", "b.safetensors"], &["several weight files; name one"]),
        (&["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"], &["shards need their index"]),
    ];
    for (files, said) in cases {
        let message = found(files, &json!({})).unwrap_err().to_string();
        said.iter().for_each(|said| assert!(message.contains(said), "{files:?}: {message}"));
    }
}

#[test]
fn shard_names_stay_in_the_folder() {
    for name in ["model-00001-of-00002.safetensors", "a.bin"] {
        assert!(is_plain(name), "{name}");
    }
    for name in ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "a/"] {
        assert!(!is_plain(name), "{name}");
    }
}
