//! The bytes of a checkpoint file, shared and read-only. Where they live (mapped or read) is decided here alone.

use moewe_engine::{Error, Result};
use std::ops::Deref;
use std::path::Path;

/// The whole file.
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn open(path: &Path) -> Result<Self> {
        std::fs::read(path).map(Self).map_err(|e| Error::io(path, "read", e))
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}
