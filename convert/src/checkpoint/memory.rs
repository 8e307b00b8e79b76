//! The bytes of a checkpoint file, mapped and read-only. Tests put damaged bytes in their place.

use moewe_engine::Result;
use moewe_engine::os::mapping::Mapping;
use std::ops::Deref;
use std::path::Path;

/// The whole file.
pub(super) enum Bytes {
    /// Where it lies on the disk.
    Mapped(Mapping),
    #[cfg(test)]
    Owned(Vec<u8>),
}

impl Bytes {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Mapping::open(path).map(Self::Mapped)
    }

    /// Nothing of it is needed for now.
    pub(super) fn release(&self) {
        match self {
            Self::Mapped(mapping) => mapping.advise_done(0..usize::MAX),
            #[cfg(test)]
            Self::Owned(_) => {}
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping,
            #[cfg(test)]
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}
