//! What a path, or standard input, stands for beside a regular file, as far as systems differ in it.

use super::link;
use crate::error::{Error, Result};
use std::fs::{self, File, FileType};
use std::io;
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

/// Whether an open file still is what stands at `path`. Where the system does not tell, it is as long as anything stands
/// there.
pub fn is_at(file: &File, path: &Path) -> bool {
    file.metadata().ok().zip(fs::symlink_metadata(path).ok()).is_some_and(|(a, b)| platform::is_same(&a, &b))
}

/// Whether standard input may hold what nobody types: it is a file, a pipe or a socket, no terminal and no other device
/// such as the null device.
pub fn is_stdin_fed() -> bool {
    platform::is_stdin_fed()
}

/// Why a file could not take another's place, as far as the system's words leave it open.
pub fn explain_rename(error: io::Error) -> io::Error {
    match platform::is_in_use(&error) {
        true => io::Error::new(
            error.kind(),
            format!(
                "a program has the file open, which this system then does not replace; end it first ({error})"
            ),
        ),
        false => error,
    }
}

#[cfg(unix)]
mod platform {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    pub(super) fn is_same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }

    pub(super) fn is_stream(kind: std::fs::FileType) -> bool {
        kind.is_fifo() || kind.is_char_device()
    }

    pub(super) fn is_stdin_fed() -> bool {
        let status = std::io::stdin().as_fd().try_clone_to_owned();
        let status = status.and_then(|descriptor| std::fs::File::from(descriptor).metadata());
        let kind = status.map(|status| status.file_type());
        kind.is_ok_and(|kind| !kind.is_char_device() && !kind.is_block_device())
    }

    pub(super) fn is_in_use(_error: &std::io::Error) -> bool {
        false
    }
}

#[cfg(not(unix))]
mod platform {
    pub(super) fn is_same(_a: &std::fs::Metadata, _b: &std::fs::Metadata) -> bool {
        true
    }

    pub(super) fn is_stream(_kind: std::fs::FileType) -> bool {
        false
    }

    pub(super) fn is_stdin_fed() -> bool {
        !std::io::IsTerminal::is_terminal(&std::io::stdin())
    }

    /// Windows: opened without leave to delete; mapped; or both of them as "access denied", which is what a mapped target
    /// mostly gives.
    pub(super) fn is_in_use(error: &std::io::Error) -> bool {
        const SHARING_VIOLATION: i32 = 32;
        const USER_MAPPED_FILE: i32 = 1224;
        const ACCESS_DENIED: i32 = 5;
        let codes = [SHARING_VIOLATION, USER_MAPPED_FILE, ACCESS_DENIED];
        cfg!(windows) && error.raw_os_error().is_some_and(|code| codes.contains(&code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_where_it_was_until_it_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let file = File::create(&here).unwrap();
        assert!(is_at(&file, &here) && !is_at(&file, &there));
        fs::rename(&here, &there).unwrap();
        assert!(!is_at(&file, &here) && is_at(&file, &there));
    }

    #[test]
    fn a_file_in_use_is_named_as_the_reason_where_it_is_one() {
        let explained = explain_rename(io::Error::from_raw_os_error(5));
        assert_eq!(explained.to_string().contains("has the file open"), cfg!(windows), "{explained}");
        assert!(!explain_rename(io::ErrorKind::NotFound.into()).to_string().contains("has the file open"));
    }
}
