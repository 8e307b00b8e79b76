//! The weights of a model in safetensors files, mapped: one file, or all of a folder.

use super::tensors::TensorFile;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// All tensors of a model.
#[derive(Debug)]
pub struct Weights {
    files: Vec<TensorFile>,
    places: HashMap<String, usize>,
}

impl Weights {
    /// Maps the file at `path`, or every safetensors file of that folder but those of an optimizer.
    ///
    /// # Errors
    /// There is none, or one is broken.
    pub fn open(path: &Path) -> Result<Self> {
        let (mut all, paths) = (Self { files: vec![], places: HashMap::new() }, files(path)?);
        for (number, path) in paths.iter().enumerate() {
            let file = TensorFile::open(path)?;
            all.places.extend(file.names().into_iter().map(|name| (name, number)));
            all.files.push(file);
        }
        Ok(all)
    }

    /// Length of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(TensorFile::bytes).sum()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.places.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Copies a tensor in the precision that it is stored in.
    ///
    /// # Errors
    /// It is missing, or of a kind that weights never are.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let place = self.places.get(name).copied().unwrap_or_default();
        let file = self.files.get(place).ok_or_else(|| Error::request(format!("no tensor {name}")))?;
        file.read(name, file.shape(name)?, file.dtype(name)?, &Device::Cpu)
    }

    /// The precision that a tensor is stored in.
    ///
    /// # Errors
    /// It is missing, or of a kind that weights never are.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let place = self.places.get(name).copied().unwrap_or_default();
        self.files.get(place).ok_or_else(|| Error::request(format!("no tensor {name}")))?.dtype(name)
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, "list", e))?;
    let is_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") && !name.starts_with("optimizer") && !name.starts_with('.')
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_model).collect();
    files.sort();
    if files.is_empty() {
        let message = format!("{}: no .safetensors file; name a folder that holds some", path.display());
        return Err(Error::request(message));
    }
    Ok(files)
}
