//! Models in BF16 for `moewe convert` and other programs: of a training at its end, or of any checkpoint.

use super::{Trainer, state};
use crate::checkpoint::{self, manifest};
use crate::model::{Config, Model};
use crate::{Error, Result};
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};

/// Writes the model of `trainer` in BF16 to `folder`, with config and tokenizer.
///
/// # Errors
/// The disk refuses.
pub fn export(trainer: &Trainer, folder: &Path) -> Result<()> {
    write(folder, &trainer.model, trainer.text.path())
}

/// Writes the model of a checkpoint in BF16 to `folder`, with config and tokenizer. `from` is the checkpoint, or a run,
/// whose newest or best one counts; a training may go on in it. The checkpoint is returned.
///
/// # Errors
/// There is no whole checkpoint, or the disk refuses.
pub fn export_checkpoint(from: &Path, best: bool, folder: &Path) -> Result<PathBuf> {
    let checkpoint = checkpoint_of(from, best)?;
    let config = Config::named(&checkpoint.to_string_lossy())?;
    let model = state::load_model(&checkpoint, config, DType::F32, &Device::Cpu)?;
    write(folder, &model, Some(&checkpoint.join("tokenizer.json")))?;
    Ok(checkpoint)
}

/// Refuses to replace a model in `folder`.
///
/// # Errors
/// One of its files is there.
pub fn check_free(folder: &Path) -> Result<()> {
    match ["model.safetensors", "config.json"].iter().map(|name| folder.join(name)).find(|path| path.exists())
    {
        Some(taken) => Err(Error::exists(taken)),
        None => Ok(()),
    }
}

fn write(folder: &Path, model: &Model, tokenizer: Option<&Path>) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    state::write_model(folder, model, tokenizer, DType::BF16)
}

fn checkpoint_of(from: &Path, best: bool) -> Result<PathBuf> {
    let itself = if best { from.join("best") } else { from.to_owned() };
    if best || manifest::is_in(from) {
        manifest::verify(&itself)?;
        return Ok(itself);
    }
    let found = checkpoint::latest(from)?.ok_or_else(|| {
        Error::request(format!("{}: no checkpoint; name a run's folder or a checkpoint", from.display()))
    })?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(found.path)
}
