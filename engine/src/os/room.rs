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

#[cfg(windows)]
mod space {
    use std::os::windows::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr::null_mut;
    use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;

    pub(super) fn available(folder: &Path) -> Option<u64> {
        let path: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
        let mut bytes = 0;
        // SAFETY: the path ends in zero, and the pointer is to a live number; the others are left out.
        let done = unsafe { GetDiskFreeSpaceExW(path.as_ptr(), &mut bytes, null_mut(), null_mut()) };
        (done != 0).then_some(bytes)
    }
}

#[cfg(not(any(unix, windows)))]
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

#[cfg(target_os = "macos")]
mod platform {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    pub(super) fn reserve(file: &File, len: u64) -> io::Result<()> {
        let has = file.metadata()?.blocks() * 512; // the unit of the count, whatever the disk's blocks
        let more = libc::off_t::try_from(len.saturating_sub(has));
        let mut store = libc::fstore_t {
            fst_flags: libc::F_ALLOCATEALL,
            fst_posmode: libc::F_PEOFPOSMODE, // behind what the file has
            fst_offset: 0,
            fst_length: more.map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?,
            fst_bytesalloc: 0,
        };
        if store.fst_length == 0 {
            return Ok(());
        }
        // SAFETY: a plain system call on an open descriptor; the struct is live and the call keeps no pointer.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PREALLOCATE, &raw mut store) } != -1 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let is_full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT));
        if is_full { Err(error) } else { Ok(()) }
    }
}

#[cfg(windows)]
mod platform {
    use std::fs::File;
    use std::io;
    use std::os::windows::io::AsRawHandle;
    use windows_sys::Win32::Foundation::{
        ERROR_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED, ERROR_FILE_TOO_LARGE, ERROR_HANDLE_DISK_FULL,
    };
    use windows_sys::Win32::Storage::FileSystem::{
        FILE_ALLOCATION_INFO, FileAllocationInfo, SetFileInformationByHandle,
    };

    const FULL: [u32; 4] =
        [ERROR_DISK_FULL, ERROR_HANDLE_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED, ERROR_FILE_TOO_LARGE];

    pub(super) fn reserve(file: &File, len: u64) -> io::Result<()> {
        // Less than the file has would cut it.
        if len <= file.metadata()?.len() {
            return Ok(());
        }
        let too_large = |_| io::Error::from_raw_os_error(ERROR_FILE_TOO_LARGE as i32);
        let room = FILE_ALLOCATION_INFO { AllocationSize: i64::try_from(len).map_err(too_large)? };
        let (pointer, bytes) = ((&raw const room).cast(), size_of::<FILE_ALLOCATION_INFO>() as u32);
        // SAFETY: the handle is open, and the pointer is to a live struct of so many bytes.
        let done =
            unsafe { SetFileInformationByHandle(file.as_raw_handle(), FileAllocationInfo, pointer, bytes) };
        if done != 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let is_full = error.raw_os_error().is_some_and(|code| FULL.contains(&(code as u32)));
        if is_full { Err(error) } else { Ok(()) }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod platform {
    pub(super) fn reserve(_file: &std::fs::File, _len: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "macos", windows)))]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_folder_that_is_there_has_a_file_system() {
        let folder = tempfile::tempdir().unwrap();
        assert!(available(folder.path()).is_some());
        assert_eq!(available(&folder.path().join("absent")), None);
    }

    #[test]
    fn what_is_written_stays() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"written").unwrap();
        for len in [3, 7, 5000] {
            reserve(&file, len).unwrap();
        }
        let mut bytes = vec![];
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        assert!(bytes.starts_with(b"written"));
    }

    #[test]
    fn more_than_any_disk_has_is_refused_and_little_is_not() {
        let file = tempfile::tempfile().unwrap();
        reserve(&file, 0).unwrap();
        reserve(&file, 5000).unwrap();
        assert!(reserve(&file, u64::MAX).is_err());
        if cfg!(unix) {
            assert!(reserve(&file, 1 << 56).is_err());
        }
    }
}
