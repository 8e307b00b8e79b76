//! What a path stands for beside a regular file, as far as systems differ in it.

use std::fs::FileType;

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
