//! Metadata that every file has, whatever its architecture: name, formats, sampling defaults.

use crate::checkpoint::Checkpoint;
use crate::hf::params::{Dim, Params};
use crate::hf::tokenizer::tokenizer_metadata;
use moewe_engine::Result;
use moewe_engine::gguf::Metadata;
use serde_json::Value;
use std::path::Path;

/// llama.cpp's GGML_QNT_VERSION.
const QUANTIZATION_VERSION: u32 = 2;

/// The version of the block layouts.
pub(crate) fn set_layout_version(metadata: &mut Metadata) {
    metadata.set("general.quantization_version", QUANTIZATION_VERSION);
}

/// Name of the model: that of its folder, or of its file where the folder holds several.
pub(crate) fn set_name(metadata: &mut Metadata, src: &Path) {
    let path = std::fs::canonicalize(src).unwrap_or_else(|_| src.to_owned());
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    if let Some(name) = name.and_then(|name| name.to_str()) {
        metadata.set("general.name", name);
    }
    metadata.set("general.type", "model");
}

/// Sampling defaults of generation_config.json; a file that is missing or broken has none.
pub(crate) fn set_sampling(metadata: &mut Metadata, checkpoint: &Checkpoint) {
    let path = checkpoint.folder.join("generation_config.json");
    let Ok(config) =
        std::fs::read(&path).map(|text| serde_json::from_slice::<Value>(&text).unwrap_or_default())
    else {
        return;
    };
    for (key, name) in [("temp", "temperature"), ("top_p", "top_p"), ("min_p", "min_p")] {
        if let Some(value) = config[name].as_f64().filter(|value| value.is_finite()) {
            metadata.set(format!("general.sampling.{key}"), value as f32);
        }
    }
    if let Some(value) = config["top_k"].as_i64().and_then(|value| i32::try_from(value).ok()) {
        metadata.set("general.sampling.top_k", value);
    }
}

/// The tokenizer that lies beside the weights, or that there is none.
pub(crate) fn set_tokenizer(metadata: &mut Metadata, checkpoint: &Checkpoint, params: &Params) -> Result<()> {
    match tokenizer_metadata(&checkpoint.folder, params.dim(Dim::Vocab)?)? {
        Some(entries) => entries.into_iter().for_each(|(key, value)| metadata.set(key, value)),
        None => set_no_tokenizer(metadata, params)?,
    }
    Ok(())
}

/// No tokenizer files: the model runs from token ids. Beginning and end are what the configuration says.
fn set_no_tokenizer(metadata: &mut Metadata, params: &Params) -> Result<()> {
    metadata.set("tokenizer.ggml.model", "none");
    let vocab = params.dim(Dim::Vocab)?;
    for (key, name) in [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")] {
        // A list of ends is possible; the first is the usual one.
        let id = params.get(&[name]).and_then(|(_, id)| id.as_u64().or_else(|| id.get(0)?.as_u64()));
        if let Some(id) = id.filter(|&id| id < vocab) {
            metadata.set(format!("tokenizer.ggml.{key}"), id as u32);
        }
    }
    Ok(())
}
