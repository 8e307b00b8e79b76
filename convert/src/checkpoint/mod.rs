//! Checkpoints as they come from training: a list of named tensors and a configuration.
//!
//! One [`Checkpoint`] stands for safetensors (one file or shards) and PyTorch pickles; whoever reads it does not
//! know which. Bytes stay in the mapped file until they are asked for. What tensors mean is the business of `hf/`.

mod contents;
mod folder;
mod memory;
mod open;
pub mod pickle;
mod safetensors;
mod torch;

pub(crate) use contents::row_major;
pub use contents::{Checkpoint, Dtype, Tensor};
use moewe_engine::Result;
use std::path::Path;

impl Checkpoint {
    /// Opens a folder with weights and config.json, or one weight file.
    ///
    /// # Errors
    /// Files that are missing, broken, or not a checkpoint; the message names the file and what to do.
    pub fn open(path: &Path) -> Result<Self> {
        open::open(path)
    }

    /// Opens one weight file without a configuration.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub(crate) fn weights(path: &Path) -> Result<Self> {
        open::weights(path)
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod checkpoint_tests;
