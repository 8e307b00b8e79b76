//! The one error type of the trainer: what failed, where, and what to do about it.
//!
//! Files and requests speak through the engine's error; this file adds what only training can run into.

use std::path::Path;

/// Result with the trainer's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while training.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, a format or a request, as the engine says it.
    #[error(transparent)]
    Common(#[from] moewe_engine::Error),
    /// The tensor library or the device refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A loss or a gradient is no longer a number.
    #[error("step {step}: {what} is not finite; {advice}")]
    Diverged {
        /// The optimizer step, counted from 0.
        step: u64,
        /// "the loss" or a tensor by its exported name.
        what: String,
        /// Which checkpoint is good and what to change.
        advice: String,
    },
}

impl Error {
    /// A request that cannot be met.
    pub fn request(message: impl Into<String>) -> Self {
        moewe_engine::Error::request(message).into()
    }

    /// Something that would be replaced stands at `path`.
    pub fn exists(path: impl AsRef<Path>) -> Self {
        Self::request(format!("{} exists already; --force replaces it", path.as_ref().display()))
    }

    /// An I/O failure of `action` on `path`.
    pub fn io(path: impl AsRef<Path>, action: impl Into<String>, source: std::io::Error) -> Self {
        moewe_engine::Error::io(path, action, source).into()
    }

    /// A broken rule at `place` of the file `path`.
    pub fn malformed(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        moewe_engine::Error::malformed(place, expected, found).in_file(path).into()
    }
}
