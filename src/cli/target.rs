//! Files that commands write: an existing one only with `--force`, and never a model that the command reads.
//!
//! Writing itself, whole or not at all, is the engine's [`Destination`].

use anyhow::{Result, bail};
use moewe_engine::gguf::{Destination, Existing, Gguf};
use std::path::Path;

/// What `--force` says.
pub(crate) fn existing(is_forced: bool) -> Existing {
    if is_forced { Existing::Replace } else { Existing::Keep }
}

/// Whether a command may write there, asked before its work.
pub(crate) fn check(path: Option<&Path>, existing: Existing) -> Result<()> {
    path.map_or(Ok(()), |path| Ok(Destination::check(path, existing)?))
}

/// Refuses to write over a model that is open, which `--force` does not mean.
pub(crate) fn refuse_model<'a>(path: &Path, models: impl IntoIterator<Item = &'a Gguf>) -> Result<()> {
    match models.into_iter().any(|model| model.is_read_from(path)) {
        true => bail!("{} is the model that is being read; name another file", path.display()),
        false => Ok(()),
    }
}
