//! Metadata that every file has, whatever its architecture: name, formats, sampling defaults.

use crate::checkpoint::Checkpoint;
use crate::hf::params::{Dim, Params};
use crate::hf::tokenizer::tokenizer_metadata;
use crate::json;
use moewe_engine::Result;
use moewe_engine::gguf::Metadata;
use std::path::Path;

/// llama.cpp's GGML_QNT_VERSION.
const QUANTIZATION_VERSION: u32 = 2;

/// The version of the block layouts.
pub(crate) fn set_layout_version(metadata: &mut Metadata) {
    metadata.set("general.quantization_version", QUANTIZATION_VERSION);
}

/// The name of the model in `src`.
pub(crate) fn set_name(metadata: &mut Metadata, src: &Path) {
    if let Some(name) = model_name(src) {
        metadata.set("general.name", name);
    }
    metadata.set("general.type", "model");
}

/// Name of a model: that of its folder, or of its file where the folder holds several. In a cache of the hub, where
/// folders go by the hashes of commits, it is that of the repository.
pub fn model_name(src: &Path) -> Option<String> {
    let path = if src.is_dir() {
        std::fs::canonicalize(src).ok()?
    } else {
        // Not where a link leads: files of the cache are links to hashes.
        let folder = src.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::canonicalize(folder).ok()?.join(src.file_name()?)
    };
    let is_weights =
        src.is_file() && path.file_stem().is_some_and(|stem| stem == "model" || stem == "pytorch_model");
    let folder = if src.is_dir() || is_weights { path.as_path() } else { Path::new("") };
    if let Some(name) = folder.ancestors().take(3).find_map(repository) {
        return Some(name);
    }
    let name = if src.is_dir() { path.file_name() } else { path.file_stem() };
    name.map(|name| name.to_string_lossy().into_owned())
}

/// The name in `models--owner--name`, of whose folder `snapshots/<commit>` this is one.
fn repository(folder: &Path) -> Option<String> {
    let commit = folder.file_name()?.to_str()?;
    let snapshots =
        folder.parent().filter(|above| above.file_name().is_some_and(|name| name == "snapshots"))?;
    let cached = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| cached.split_once("--").map_or(cached, |(_, name)| name).to_owned())
}

/// Sampling defaults of generation_config.json, where there is one.
pub(crate) fn set_sampling(metadata: &mut Metadata, checkpoint: &Checkpoint) -> Result<()> {
    let path = checkpoint.folder.join("generation_config.json");
    if !path.is_file() {
        return Ok(());
    }
    let config = json::read(&path)?;
    for (key, name) in [("temp", "temperature"), ("top_p", "top_p"), ("min_p", "min_p")] {
        if let Some(value) = config[name].as_f64().filter(|value| value.is_finite()) {
            metadata.set(format!("general.sampling.{key}"), value as f32);
        }
    }
    if let Some(value) = config["top_k"].as_i64().and_then(|value| i32::try_from(value).ok()) {
        metadata.set("general.sampling.top_k", value);
    }
    Ok(())
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
    let ids = |name: &str| {
        let value = params.get(&[name]).map(|(_, value)| value.clone()).unwrap_or_default();
        let list = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        let ids = list.iter().filter_map(|id| id.as_u64()).filter(|&id| id < vocab).map(|id| id as u32);
        ids.collect::<Vec<u32>>()
    };
    if let Some(&bos) = ids("bos_token_id").first() {
        metadata.set("tokenizer.ggml.bos_token_id", bos);
    }
    let ends = ids("eos_token_id");
    if let Some(&eos) = ends.first() {
        metadata.set("tokenizer.ggml.eos_token_id", eos);
    }
    if ends.len() > 1 {
        metadata.set("tokenizer.ggml.eog_token_ids", ends);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_folders_files_and_the_hubs_cache() {
        let root = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = root.path().join("models--owner--a--b/snapshots").join(commit);
        let (plain, hash) = (root.path().join("olmoe"), root.path().join(commit));
        for folder in [&snapshot, &plain, &hash] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("model.safetensors"), "").unwrap();
            std::fs::write(folder.join("tiny-Q4.gguf"), "").unwrap();
        }
        let cases = [
            (snapshot.clone(), "a--b"),
            (snapshot.join("model.safetensors"), "a--b"),
            (snapshot.join("tiny-Q4.gguf"), "tiny-Q4"),
            (plain.clone(), "olmoe"),
            (plain.join("."), "olmoe"),
            (plain.join("model.safetensors"), "model"),
            (hash, commit),
        ];
        for (path, expected) in cases {
            assert_eq!(model_name(&path).as_deref(), Some(expected), "{}", path.display());
        }
    }
}
