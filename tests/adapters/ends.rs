//! Adapters at their ends: as sources of mixtures, at the command line, and what does not fit.

use crate::command::moewe;
use crate::peft::*;
use moewe_convert::convert_adapter;
use moewe_convert::merge::{Asked, Mixture, Places, merge};
use moewe_engine::gguf::{Existing, Gguf};
use moewe_engine::model::Adapter;
use moewe_engine::session::{Engine, Options as EngineOptions};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Paths are those of the dense models.
struct Dense(PathBuf);

impl Places for Dense {
    fn model(&self, name: &str) -> moewe_engine::Result<PathBuf> {
        let path = if name.starts_with('/') { PathBuf::from(name) } else { self.0.join(name) };
        match path.exists() {
            true => Ok(path),
            false => Err(moewe_engine::Error::request(format!("no model is called {name}"))),
        }
    }

    fn text(&self, path: PathBuf) -> PathBuf {
        path
    }
}

#[test]
fn a_base_and_adapters_make_a_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let dense = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/merge/dense");
    let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 500.0 - 0.1;
    let mut own = Arrays::new();
    for layer in 0..3 {
        for (part, inputs, outputs) in [("gate", 64, 128), ("up", 64, 128), ("down", 128, 64)] {
            let front = format!("base_model.model.model.layers.{layer}.mlp.{part}_proj.lora");
            own.insert(format!("{front}_A.weight"), (vec![2, inputs], (0..2 * inputs).map(number).collect()));
            let b = (0..outputs * 2).map(|i| number(i + layer)).collect();
            own.insert(format!("{front}_B.weight"), (vec![outputs, 2], b));
        }
    }
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4 });
    let adapter = folder_of(&folder.path().join("adapter"), &config, &own);
    let words = format!(
        "base_model: llama-base\ngate_mode: uniform_random\nexperts:\n- source_model: llama-base\n- source_model: llama-base+{}\n",
        adapter.display()
    );
    let mixture = Mixture::from_yaml(&words, &Dense(dense.clone())).unwrap();
    let out = folder.path().join("mixture.gguf");
    merge(&mixture, &out, &Asked::default(), &options("F32", vec![]), &()).unwrap();
    let lora = options("F32", vec![named(adapter, 1.0)]);
    let merged = converted(&dense.join("llama-base"), folder.path(), "merged.gguf", &lora);
    let [mixture, merged] = [out, merged].map(|path| Gguf::open(path).unwrap());
    for layer in 0..3 {
        for part in ["gate", "up", "down"] {
            let stack = of_file(&mixture, &format!("blk.{layer}.ffn_{part}_exps.weight"));
            let expected = of_file(&merged, &format!("blk.{layer}.ffn_{part}.weight"));
            assert!(stack[expected.len()..] == expected[..], "{layer} {part}");
            assert!(stack[..expected.len()] != expected[..], "{layer} {part}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let to_file = |adapter: &Path, base: &Path| {
        convert_adapter(adapter, base, &out, f32s(), Existing::Keep).unwrap_err().to_string()
    };
    // Another base: another architecture, other lengths; DoRA has no file.
    let error = to_file(&golden("mixtral-old-names"), &golden("qwen3moe"));
    assert!(error.contains("block_sparse_moe") && error.contains("qwen3moe"), "{error}");
    let error = to_file(&golden("qwen3moe-all"), &golden("mixtral"));
    assert!(error.contains("base"), "{error}");
    let error = to_file(&golden("mixtral-dora"), &golden("mixtral"));
    assert!(error.contains("DoRA") && error.contains("--lora"), "{error}");
    assert!(!out.exists());
    // Halves and names.
    let own = arrays(&golden("mixtral-attention").join("adapter_model.safetensors"));
    let first = own.keys().find(|name| name.ends_with("lora_B.weight")).unwrap().clone();
    let with = |change: &dyn Fn(&mut Arrays)| {
        let mut changed = own.clone();
        change(&mut changed);
        let place = folder.path().join("changed");
        let _ = fs::remove_dir_all(&place);
        to_file(&folder_of(&place, &config_of("mixtral-attention"), &changed), &golden("mixtral"))
    };
    let error = with(&|arrays| drop(arrays.remove(&first)));
    assert!(error.contains("lora_A") && error.contains("lora_B"), "{error}");
    let error =
        with(&|arrays| {
            drop(arrays.insert(
                "base_model.model.model.layers.0.self_attn.q_proj.lora_C".into(),
                (vec![1], vec![0.0]),
            ))
        });
    assert!(error.contains("lora_C"), "{error}");
    let error = with(&|arrays| {
        let pair = arrays.remove(&first).unwrap();
        arrays.insert(first.replace("lora_B", "lora_A"), (vec![4, 64], vec![0.0; 256]));
        arrays
            .insert(first.clone(), (vec![pair.0[0], pair.0[1] + 1], vec![0.0; pair.0[0] * (pair.0[1] + 1)]));
    });
    assert!(error.contains("lora_B"), "{error}");
    let error = with(&|arrays| arrays.get_mut(&first).unwrap().1[0] = f32::NAN);
    assert!(error.contains("finite"), "{error}");
    // At run time: a model is no adapter, an adapter has a base.
    let base = converted(&golden("mixtral"), folder.path(), "base.gguf", &options("F32", vec![]));
    let error = Adapter::open(&base, 1.0).unwrap_err().to_string();
    assert!(error.contains("adapter"), "{error}");
    let lora = written(&golden("qwen3moe-all"), &golden("qwen3moe"), folder.path(), "qwen.gguf");
    let error = Engine::open(&base, with_adapter(&lora)).err().unwrap().to_string();
    assert!(error.contains("qwen3moe") && error.contains("llama"), "{error}");
    let error = Engine::open(&lora, EngineOptions::default()).err().unwrap().to_string();
    assert!(error.contains("adapter"), "{error}");
}

fn with_adapter(path: &Path) -> EngineOptions {
    with(path, 1.0, EngineOptions::default())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn the_command_writes_shows_adds_and_merges_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (adapter, base) =
        (golden("mixtral-experts").display().to_string(), golden("mixtral").display().to_string());
    let (lora, model, merged) = (place("lora.gguf"), place("model.gguf"), place("merged.gguf"));
    let ok = |arguments: &[&str]| {
        let output = moewe(folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    };
    let line = ok(&["convert", &adapter, "--base", &base, "-o", &lora]);
    assert!(line.contains("an adapter for llama, 32 matrices"), "{line}");
    let again = ["convert", &adapter, "--base", &base, "-o", &lora];
    let again = moewe(folder.path()).args(again).output().unwrap();
    assert!(!again.status.success() && said(&again).contains("--force"), "{}", said(&again));
    assert!(ok(&["inspect", &lora]).contains("an adapter (LoRA) of rank 4 on 32 matrices"));
    ok(&["convert", &base, "-o", &model, "--format", "F32", "--pad", "never"]);
    let half = format!("{lora}:0.5");
    let notes = ok(&["convert", &base, "-o", &merged, "--format", "F32", "--pad", "never", "--lora", &half]);
    assert!(notes.contains("times 0.5"), "{notes}");
    let logits = |model: &str, more: &[&str], name: &str| {
        let out = place(name);
        ok(&[&["logits", model, "--tokens", "5,6,7,8,9,10", "--isa", "portable", "-o", &out], more].concat());
        arrays(Path::new(&out))["logits"].1.clone()
    };
    let beside = logits(&model, &["--lora", &half], "beside");
    assert!(difference(&beside, &logits(&merged, &[], "merged")) <= LOGITS);
    assert!(beside != logits(&model, &["--lora", &lora], "whole"));
    for (arguments, reason) in [
        (["logits", &model, "--lora", &adapter], "moewe convert"),
        (["logits", &model, "--lora", &model], "not an adapter"),
        (["logits", &lora, "--isa", "portable"], "--lora"),
    ] {
        let none = place("none");
        let arguments = [&arguments[..], &["--tokens", "5", "-o", &none]].concat();
        let output = moewe(folder.path()).args(&arguments).output().unwrap();
        let text = said(&output);
        assert!(!output.status.success() && text.contains(reason), "{arguments:?}: {text}");
    }
}

/// Bytes that a disk, a download or a stranger changed: one of them, a few, or where the file ends.
fn damaged(bytes: &[u8], seed: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut changed = bytes.to_vec();
    // Most of what can go wrong stands at the beginning.
    let header = bytes.len().min(4096);
    match seed % 4 {
        0 => changed.truncate(next(bytes.len())),
        1 => changed[next(header)] ^= 1 << next(8),
        2 => (0..4).for_each(|_| changed[next(header)] = next(256) as u8),
        _ => changed[next(header)] = [0, 1, 127, 128, 255][next(5)],
    }
    changed
}

#[test]
fn damaged_files_are_errors_or_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = golden("mixtral-old-names");
    let base = converted(&golden("mixtral"), folder.path(), "base.gguf", &options("F32", vec![]));
    let of_llama_cpp = fs::read(adapter.join("adapter.gguf")).unwrap();
    let weights = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let config = fs::read(adapter.join("adapter_config.json")).unwrap();
    let place = folder.path().join("damaged");
    fs::create_dir(&place).unwrap();
    let mut refused = [0; 2];
    for seed in 0..120 {
        let file = folder.path().join("damaged.gguf");
        fs::write(&file, damaged(&of_llama_cpp, seed)).unwrap();
        let opened = Adapter::open(&file, 1.0).and_then(|lora| {
            Engine::open(&base, EngineOptions { adapters: vec![lora], ..exact() }).map(drop)
        });
        refused[0] += usize::from(opened.is_err());
        let (weights, config) = match seed % 5 {
            0 => (weights.clone(), damaged(&config, seed)),
            _ => (damaged(&weights, seed), config.clone()),
        };
        fs::write(place.join("adapter_model.safetensors"), weights).unwrap();
        fs::write(place.join("adapter_config.json"), config).unwrap();
        let written =
            convert_adapter(&place, &base, &folder.path().join("out.gguf"), f32s(), Existing::Replace);
        refused[1] += usize::from(written.is_err());
    }
    assert!(refused.iter().all(|&count| count > 60), "{refused:?}");
}

#[test]
fn a_chat_template_goes_with_its_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let own = arrays(&golden("mixtral-attention").join("adapter_model.safetensors"));
    let adapter = folder_of(&folder.path().join("adapter"), &config_of("mixtral-attention"), &own);
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";
    fs::write(adapter.join("chat_template.jinja"), template).unwrap();
    let of = |path: &Path| {
        let gguf = Gguf::open(path).unwrap();
        gguf.metadata().str("tokenizer.chat_template").unwrap().map(str::to_owned)
    };
    let base = converted(&golden("mixtral"), folder.path(), "base.gguf", &options("F32", vec![]));
    assert_ne!(of(&base).as_deref(), Some(template));
    let lora = written(&adapter, &golden("mixtral"), folder.path(), "lora.gguf");
    assert_eq!(of(&lora).as_deref(), Some(template));
    for (name, path, scale) in [("a.gguf", adapter, 1.0), ("b.gguf", lora.clone(), 0.5)] {
        let options = options("F32", vec![named(path, scale)]);
        let merged = converted(&golden("mixtral"), folder.path(), name, &options);
        assert_eq!(of(&merged).as_deref(), Some(template), "{name}");
    }
    // At run time as well, unless nothing of it is added.
    let engine = |scale: f32| Engine::open(&base, with(&lora, scale, exact())).unwrap();
    let of = |scale: f32| engine(scale).metadata().str("tokenizer.chat_template").unwrap().map(str::to_owned);
    assert_eq!(of(1.0).as_deref(), Some(template));
    assert_ne!(of(0.0).as_deref(), Some(template));
}
