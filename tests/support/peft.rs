//! The adapters that peft made, the models that they belong to, and what is compared of both
//! (`tests/golden/lora/README.md`).

#![allow(dead_code, reason = "each test uses what it needs")]

pub(crate) use crate::exact::{Tensors as Arrays, of_file, relative as difference, tensors as arrays};

use crate::exact;
use moewe_convert::adapter::Named;
use moewe_convert::convert_adapter;
use moewe_convert::{Options, Pad, Recipe, convert};
use moewe_engine::gguf::{Existing, Gguf};
use moewe_engine::model::Adapter;
use moewe_engine::quant::Format;
use moewe_engine::session::Options as EngineOptions;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Of logits, relative to the largest.
pub(crate) const LOGITS: f32 = 2e-5;
/// Of merged weights.
pub(crate) const WEIGHTS: f32 = 1e-6;

pub(crate) const ADAPTERS: [&str; 5] =
    ["mixtral-attention", "mixtral-experts", "mixtral-dora", "qwen3moe-all", "mixtral-old-names"];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lora").join(name)
}

pub(crate) fn base_of(adapter: &str) -> PathBuf {
    golden(adapter.split('-').next().unwrap())
}

pub(crate) fn save(path: &Path, arrays: &Arrays) {
    let bytes: BTreeMap<_, Vec<u8>> = arrays
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = arrays.iter().map(|(name, (shape, _))| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

pub(crate) fn options(format: &str, adapters: Vec<Named>) -> Options {
    Options { pad: Pad::Never, adapters, ..Options::with(Recipe::by_name(format).unwrap()) }
}

pub(crate) fn named(path: PathBuf, scale: f64) -> Named {
    Named { path, scale }
}

/// A conversion in a folder of its own.
pub(crate) fn converted(src: &Path, folder: &Path, name: &str, options: &Options) -> PathBuf {
    let out = folder.join(name);
    convert(src, &out, options, &()).unwrap();
    out
}

pub(crate) fn f32s() -> &'static Format {
    Format::by_name("F32").unwrap()
}

/// An adapter as a GGUF file.
pub(crate) fn written(adapter: &Path, base: &Path, folder: &Path, name: &str) -> PathBuf {
    let out = folder.join(name);
    convert_adapter(adapter, base, &out, f32s(), Existing::Keep).unwrap();
    out
}

pub(crate) fn exact() -> EngineOptions {
    exact::exact(128)
}

pub(crate) fn logits(model: &Path, tokens: &[u32], options: EngineOptions) -> Vec<f32> {
    exact::logits(Gguf::open(model).unwrap(), tokens, options)
}

pub(crate) fn with(adapter: &Path, scale: f32, options: EngineOptions) -> EngineOptions {
    EngineOptions { adapters: vec![Adapter::open(adapter, scale).unwrap()], ..options }
}

pub(crate) fn tokens_of(expected: &Arrays) -> Vec<u32> {
    expected["tokens"].1.iter().map(|&token| token as u32).collect()
}

pub(crate) fn folder_of(folder: &Path, config: &Value, arrays: &Arrays) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    save(&folder.join("adapter_model.safetensors"), arrays);
    folder.to_owned()
}

pub(crate) fn config_of(adapter: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(adapter).join("adapter_config.json")).unwrap()).unwrap()
}
