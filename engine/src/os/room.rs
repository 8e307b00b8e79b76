//! Room on the disk for a file whose size is known before it is written: a full disk is noticed at once, not after
//! hours. Where the system or the file system cannot reserve, nothing happens, and writing finds out.

use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes that this person may still write to the file system of `folder`, where the system tells.
pub fn available(folder: &Path) -> Option<u64> {
    space::available(folder)
}

/// Reserves `len` bytes for the file, which keeps its length of zero or more.
///
/// # Errors
/// No room on the disk, or beyond what this process may write into one file.
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    platform::reserve(file, len)
}

/// From now on a file that grows beyond the limit of this process (`ulimit -f`) is an error of the write and no end of
/// the process.
pub fn report_file_limit() {
    // SAFETY: no handler is installed, the signal is ignored; the write then fails with EFBIG.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN)
    };
}

#[cfg(unix)]
mod space {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    pub(super) fn available(folder: &Path) -> Option<u64> {
        let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
        // SAFETY: statvfs is a C struct of numbers, for which all zeros are valid.
        let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends in zero, and the pointer is to a live struct.
        let status = unsafe { libc::statvfs(path.as_ptr(), &mut space) };
        #[allow(clippy::unnecessary_cast, reason = "the fields are narrower elsewhere")]
        let bytes = (space.f_bavail as u64).saturating_mul(space.f_frsize as u64);
        (status == 0).then_some(bytes)
    }
}

#[cfg(not(unix))]
mod space {
    pub(super) fn available(_folder: &std::path::Path) -> Option<u64> {
        None
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    pub(super) fn reserve(file: &File, len: u64) -> io::Result<()> {
        let len = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        // SAFETY: a plain system call on an open descriptor; no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let is_full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT));
        if is_full { Err(error) } else { Ok(()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    pub(super) fn reserve(_file: &std::fs::File, _len: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_has_a_file_system() {
        let folder = tempfile::tempdir().unwrap();
        assert!(available(folder.path()).is_some());
        assert_eq!(available(&folder.path().join("absent")), None);
    }

    #[test]
    fn more_than_any_disk_has_is_refused_and_little_is_not() {
        let file = tempfile::tempfile().unwrap();
        reserve(&file, 0).unwrap();
        reserve(&file, 5000).unwrap();
        for len in [1 << 56, u64::MAX] {
            assert!(reserve(&file, len).is_err(), "{len}");
        }
    }
}
