//! The model that a fine-tuning begins from: its weights where they lie, and what tells it from any other.

use super::super::initial::{missing, stored};
use super::settings::Tuning;
use crate::checkpoint::Weights;
use crate::model::{Config, Model, Role, Spec, Values};
use crate::{Error, Result};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a checkpoint remembers of its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) config_sha256: String,
}

impl Identity {
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let config_sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, config_sha256 })
    }
}

/// The model in the folder of `tuning`, before it has learned anything.
///
/// # Errors
/// Weights that are missing, of another shape, or without a place.
pub(super) fn load(tuning: &Tuning, config: Config, dtype: DType, device: &Device) -> Result<Model> {
    let weights = Weights::open(&tuning.base)?;
    let folder = tuning.base.clone();
    let mut left: Vec<String> = weights.names().into_iter().map(str::to_owned).collect();
    let shape = config.clone();
    let values = |spec: &Spec| -> Result<Values> {
        let fused = (shape.architecture.fused)(spec.role, spec.layer, &spec.shape);
        left.retain(|name| {
            let is_fused = fused.as_ref().is_some_and(|piece| piece.name == *name);
            !is_fused && !spec.pieces.iter().any(|piece| piece.name == *name)
        });
        if let Some(rows) = grown(&weights, tuning, spec)? {
            return Ok(rows);
        }
        let own = stored(&weights, &shape, spec)
            .map_err(|error| Error::request(format!("{}: {error}", folder.display())))?;
        own.ok_or_else(|| missing(&folder, spec, &weights))
    };
    let mut model = Model::of(config, &tuning.trained, (dtype, device), values)?;
    // Tables of angles that old releases wrote, and a second copy of a tied head.
    let is_harmless = |name: &String| {
        name.ends_with("rotary_emb.inv_freq") || (model.config.tied && name == "lm_head.weight")
    };
    left.retain(|name| !is_harmless(name));
    if let Some(name) = left.first() {
        let message = format!(
            "{}: nothing in a {} reads the tensor {name}; without it another model would be trained",
            tuning.base.display(),
            model.config.architecture.model_type
        );
        return Err(Error::request(message));
    }
    model.begin_adapters(tuning.seed)?;
    Ok(model)
}

/// The rows of a table of tokens with new ones after them, where the vocabulary grows: each new one is the mean of all that
/// were there.
fn grown(weights: &Weights, tuning: &Tuning, spec: &Spec) -> Result<Option<Values>> {
    let name = &spec.pieces[0].name;
    if !matches!(spec.role, Role::TokenEmbedding | Role::Output)
        || tuning.vocabulary == 0
        || !weights.contains(name)
    {
        return Ok(None);
    }
    let tensor = weights.read(name)?;
    let (rows, width) = tensor.dims2()?;
    if width != spec.shape[1] || rows >= spec.shape[0] {
        return Ok(None);
    }
    let mut numbers: Vec<f32> = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    let mut sums = vec![0f64; width];
    for row in numbers.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / rows as f64) as f32).collect();
    (rows..spec.shape[0]).for_each(|_| numbers.extend_from_slice(&mean));
    Ok(Some(Values { numbers, stored: DType::F32 }))
}

/// Files beside a model that say how text becomes tokens.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Copies the tokenizer of `from`, and puts `own` in the place of files of these names.
///
/// # Errors
/// The disk refuses.
pub(super) fn copy_companions(from: &Path, folder: &Path, own: &[(String, String)]) -> Result<()> {
    for name in COMPANIONS.iter().filter(|name| !own.iter().any(|(own, _)| own == *name)) {
        let path = from.join(name);
        if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            std::fs::copy(&path, folder.join(name)).map_err(|e| Error::io(&path, "copy", e))?;
        }
    }
    for (name, text) in own {
        let path: PathBuf = folder.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io(&path, "write", e))?;
    }
    Ok(())
}
