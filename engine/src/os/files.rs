//! What a path stands for beside a regular file, as far as systems differ in it.

use super::link;
use crate::error::{Error, Result};
use std::fs::{self, FileType};
use std::path::Path;

/// Refuses what is no regular file, before it is opened: a pipe without a writer would be waited for.
///
/// # Errors
/// For folders, devices, pipes and links that lead nowhere.
pub fn regular(path: &Path) -> Result<()> {
    let status = fs::metadata(path).map_err(|error| Error::io(path, "open", link::explain(path, error)))?;
    if status.is_file() {
        return Ok(());
    }
    let kind = if status.is_dir() { "a folder" } else { "a device or a pipe" };
    Err(Error::malformed("", "a regular file", kind).in_file(path))
}

/// Whether bytes pass through it and nothing that is kept gets lost: a pipe, a terminal, the null device. No block
/// device: that is a disk.
pub fn is_stream(kind: FileType) -> bool {
    platform::is_stream(kind)
}

#[cfg(unix)]
mod platform {
    use std::os::unix::fs::FileTypeExt;

    pub(super) fn is_stream(kind: std::fs::FileType) -> bool {
        kind.is_fifo() || kind.is_char_device()
    }
}

#[cfg(not(unix))]
mod platform {
    pub(super) fn is_stream(_kind: std::fs::FileType) -> bool {
        false
    }
}
