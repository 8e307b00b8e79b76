//! Opens the weight files of a checkpoint and the configuration beside them.

use super::contents::Checkpoint;
use super::{folder, memory::Bytes, safetensors, torch};
use crate::json;
use moewe_engine::gguf::mistaken;
use moewe_engine::{Error, Result};
use serde_json::Value;
use std::path::Path;

pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = if path.is_dir() { path } else { beside };
    let config = folder.join("config.json");
    let config = if config.is_file() { json::read(&config)? } else { Value::Null };
    let mut checkpoint = Checkpoint::new(folder.to_owned());
    if path.is_dir() {
        let found = folder::weight_files(path, &config)?;
        for file in &found.files {
            add_file(&mut checkpoint, file)?;
        }
        checkpoint.leftovers = found.leftovers;
    } else {
        add_file(&mut checkpoint, path)?;
    }
    if !config.is_null() {
        checkpoint.config = config;
    }
    if !checkpoint.config.is_object() {
        return Err(Error::unsupported(
            format!("{}: no configuration (a config.json with an object in it)", folder.display()),
            "put the model's config.json beside the weights",
        ));
    }
    Ok(checkpoint)
}

/// One weight file alone.
pub(super) fn weights(path: &Path) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::new(path.parent().unwrap_or(Path::new("")).to_owned());
    add_file(&mut checkpoint, path)?;
    Ok(checkpoint)
}

/// Reads one weight file, whatever its name says it is.
fn add_file(checkpoint: &mut Checkpoint, path: &Path) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() == 0)
        && let Some(error) = mistaken(&[])
    {
        return Err(error.in_file(path)); // nothing can be mapped of it
    }
    add_bytes(checkpoint, path, Bytes::open(path)?)
}

pub(super) fn add_bytes(checkpoint: &mut Checkpoint, path: &Path, bytes: Bytes) -> Result<()> {
    if let Some(error) = mistaken(&bytes[..bytes.len().min(256)]) {
        return Err(error.in_file(path));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        torch::add(checkpoint, path, bytes)
    } else if bytes.len() > 8 && bytes[8] == b'{' {
        safetensors::add(checkpoint, path, bytes)
    } else {
        Err(Error::unsupported(
            format!("{}: neither safetensors nor a PyTorch zip file", path.display()),
            "files written by torch before version 1.6: load and save them again with a newer torch",
        ))
    }
}
