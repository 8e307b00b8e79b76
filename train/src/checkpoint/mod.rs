//! Checkpoints on disk: folders that are whole or not there, and tensors in safetensors files.
//!
//! What a checkpoint contains is the trainer's business; here it is files in a folder.

pub mod manifest;
pub mod store;
pub mod tensors;
pub mod weights;

pub use store::{Found, Store, latest};
pub use tensors::{TensorFile, write_tensors};
pub use weights::Weights;

use crate::{Error, Result};
use std::fs::File;
use std::path::Path;

/// Makes sure that a file's contents survive a power failure.
fn sync_file(path: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(path).map_err(|e| Error::io(path, "open", e))?;
    file.sync_all().map_err(|e| Error::io(path, "flush to disk", e))
}

/// Makes sure that names in a folder survive a power failure; only Unix can flush a folder.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        let folder = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        folder.sync_all().map_err(|e| Error::io(path, "flush to disk", e))?;
    }
    Ok(())
}
