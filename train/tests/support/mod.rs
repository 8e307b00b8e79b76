//! A small world for tests of the whole trainer: a corpus, its tokenizer, its shards, and models of a few thousand
//! numbers. What is proven stands in the files that use this.

#![allow(dead_code, reason = "every test file uses its own part of this")]

pub(crate) mod process;

use candle_core::{DType, Device, Tensor};
use moewe_convert::{Options as ConvertOptions, convert};
use moewe_engine::quant::Format;
use moewe_engine::session::{CapacityMode, Engine, Options, cache_format};
use moewe_train::model::{Config, Model, Spec};
use moewe_train::random::Random;
use process::trainer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Tokens of a row.
pub(crate) const CONTEXT: usize = 32;

const WORDS: [&str; 24] = [
    "die", "Möwe", "fliegt", "über", "das", "graue", "Meer", "und", "ruft", "der", "Wind", "trägt", "sie",
    "weit", "hinaus", "am", "Abend", "kehrt", "zum", "Hafen", "zurück", "wo", "Fische", "warten",
];

/// A folder with a corpus, a tokenizer and shards, made by the binary itself.
pub(crate) struct Dataset {
    pub(crate) folder: tempfile::TempDir,
}

impl Dataset {
    pub(crate) fn new() -> Self {
        let dataset = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(dataset.path("corpus.txt"), corpus()).unwrap();
        let [corpus, tokenizer, shards] =
            ["corpus.txt", "tokenizer.json", "shards"].map(|name| dataset.text(name));
        trainer(["tokenizer", "--data", &corpus, "--vocabulary", "320", "-o", &tokenizer, "-q"]).succeed();
        let context = CONTEXT.to_string();
        let shape = ["--context", &context, "--holdout", "0.1", "-o", &shards, "-q"];
        trainer(["shards", "--data", &corpus, "--tokenizer", &tokenizer]).args(shape).succeed();
        dataset
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The path of a config.json for `config`, to be named as a preset.
    pub(crate) fn preset(&self, name: &str, config: &Value) -> String {
        let path = self.path(&format!("{name}.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Sentences of which the next word can half be guessed.
fn corpus() -> String {
    let mut random = Random::at(7, &[]);
    let mut out = String::new();
    for document in 0..400 {
        let mut word = random.below(24) as usize;
        for _ in 0..30 {
            write!(out, "{} ", WORDS[word]).unwrap();
            word = (word + 1 + random.below(2) as usize * (document % 3)) % WORDS.len();
        }
        out += ".\n\n";
    }
    out
}

/// A folder with one shard of these rows, without a tokenizer.
pub(crate) fn write_rows(folder: &Path, rows: &[Vec<u32>]) {
    std::fs::create_dir_all(folder).unwrap();
    let shape = format!("({}, {})", rows.len(), rows[0].len());
    let mut text = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': {shape}, }}");
    while (text.len() + 11) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    bytes.extend(rows.iter().flatten().flat_map(|id| id.to_le_bytes()));
    std::fs::write(folder.join("shard_00000.npy"), bytes).unwrap();
}

/// Layer norms, rotation of pairs, dense and expert layers in turn, with dropout, noise and capacity.
pub(crate) fn moe_gpt() -> Value {
    json!({"model_type": "moe_gpt", "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_experts": 4,
        "n_experts_active": 2, "moe_layer_frequency": 2, "capacity_factor": 1.0, "use_noisy_gating": true,
        "dropout": 0.1, "bias": true, "activation_function": "gelu"})
}

/// Grouped heads, norms of heads, two shared experts.
pub(crate) fn tachyon() -> Value {
    json!({"model_type": "tachyon", "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 32,
        "d_shared_ff": 32, "n_routed_experts": 4, "n_shared_experts": 2, "top_k_experts": 2, "max_seq_len": 64})
}

/// Learned positions, biased experts, an untied head.
pub(crate) fn moe_124m(top_k: usize) -> Value {
    json!({"model_type": "moe_124m", "dim": 32, "n_layers": 2, "n_heads": 2, "ff_dim": 32, "n_experts": 4,
        "top_k": top_k, "context_len": 64})
}

/// Llama with routed experts.
pub(crate) fn mixtral() -> Value {
    json!({"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0})
}

/// A folder of `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

pub(crate) fn config(folder: &Path) -> Config {
    Config::named(folder.to_str().unwrap()).unwrap()
}

pub(crate) fn tensors(file: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// A model with the weights of a checkpoint, all of which it must want.
pub(crate) fn model(config: Config, weights: &HashMap<String, Tensor>) -> Model {
    let mut used = 0;
    let values = |spec: &Spec| {
        let mut out = vec![f32::NAN; spec.count()];
        for piece in &spec.pieces {
            let tensor = &weights[&piece.name];
            piece.put((&numbers(tensor), tensor.dims()), &mut out, &spec.shape)?;
            used += 1;
        }
        Ok(out)
    };
    let model = Model::with_values(config, DType::F32, &Device::Cpu, values).unwrap();
    assert_eq!(used, weights.len(), "tensors without a place");
    model
}

/// The runtime with a checkpoint of the trainer converted to F32.
pub(crate) fn engine(folder: &Path, capacity: CapacityMode) -> Engine {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("f32.gguf");
    convert(folder, &file, &ConvertOptions::new(Format::by_name("F32").unwrap()), &()).unwrap();
    let cache = cache_format("f32").unwrap();
    Engine::open(&file, Options { capacity, cache, ..Options::default() }).unwrap()
}

/// The largest difference relative to the reference's largest number; infinite for NaN.
pub(crate) fn difference(found: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(found.len(), reference.len());
    let largest = reference.iter().fold(0f32, |a, b| a.max(b.abs()));
    let worst = found.iter().zip(reference).map(|(a, b)| (a - b).abs());
    worst.fold(0f32, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) }) / largest
}

/// Mean of the negative logarithms of the probabilities of `tokens[1..]`, in f64.
pub(crate) fn cross_entropy(logits: &[f32], tokens: &[u32]) -> f64 {
    let width = logits.len() / tokens.len();
    let lost = |(row, &target): (&[f32], &u32)| {
        let largest = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let sum: f64 = row.iter().map(|&x| f64::from(x - largest).exp()).sum();
        sum.ln() - f64::from(row[target as usize] - largest)
    };
    let total: f64 = logits.chunks_exact(width).zip(&tokens[1..]).map(lost).sum();
    total / (tokens.len() - 1) as f64
}

/// A reference case of a fixture.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logits: Vec<f32>, // (tokens, vocabulary)
}

impl Case {
    /// Whether experts drop tokens, as far as the architecture knows that.
    pub(crate) fn has_capacity(&self) -> bool {
        self.name.starts_with("reference")
    }
}

pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let expected = tensors(&folder.join("expected.safetensors"));
    let names = expected.keys().filter_map(|name| name.strip_suffix(".tokens"));
    let case = |name: &str| Case {
        name: name.to_owned(),
        tokens: numbers(&expected[&format!("{name}.tokens")]).iter().map(|&id| id as u32).collect(),
        logits: numbers(&expected[&format!("{name}.logits")]),
    };
    names.map(case).collect()
}
