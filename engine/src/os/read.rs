//! Positional reads of a file that is also mapped: through the page cache, or past it where the system can.
//!
//! A failed read is an error where a failed page fault is a signal, and one large request reaches a disk's speed
//! where faults, a few pages each, do not. Reads past the cache leave it to what is mapped.

use super::mapping::Mapping;
use super::pages::Pages;
use crate::error::{Error, Result};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// Positions, lengths and memory of reads past the page cache are multiples of this.
const SECTOR: usize = 4096;

/// A buffer that any read of up to [`ReadBuffer::capacity`] bytes fits.
#[derive(Debug)]
pub struct ReadBuffer {
    pages: Pages,
    capacity: usize,
}

impl ReadBuffer {
    /// A buffer for reads of up to `capacity` bytes.
    ///
    /// # Errors
    /// When the system has no such room.
    pub fn new(capacity: usize) -> Result<Self> {
        // The first sector may begin before the wanted bytes, the last one end after them.
        Ok(Self { pages: Pages::new(capacity.next_multiple_of(SECTOR) + SECTOR)?, capacity })
    }

    /// Largest read.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// An open file to read from at any position, by several threads at once.
#[derive(Debug)]
pub struct ReadFile {
    file: platform::File,
    path: PathBuf,
    is_direct: bool,
}

impl ReadFile {
    /// The file behind a mapping, whatever has its name by now. `past_cache` asks for reads that leave no copy in
    /// the page cache; systems and file systems without such reads use the cache.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn open(mapping: &Mapping, past_cache: bool) -> Result<Self> {
        let path = mapping.path().to_owned();
        let direct = if past_cache { platform::reopen_direct(mapping.file()) } else { None };
        let is_direct = direct.is_some();
        let file = direct.map_or_else(|| mapping.file().try_clone(), Ok);
        let file = file.map_err(|e| Error::io(&path, "open for reading", e))?;
        Ok(Self { file: platform::File::new(file, is_direct), path, is_direct })
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// The bytes `position..position + len`, which stay in `buffer`.
    ///
    /// # Errors
    /// When the file ends before them or the system cannot read them; the message says where.
    ///
    /// # Panics
    /// When `len` exceeds the buffer's capacity.
    pub fn read<'b>(&self, position: u64, len: usize, buffer: &'b mut ReadBuffer) -> Result<&'b [u8]> {
        assert!(len <= buffer.capacity);
        let skip = if self.is_direct { (position % SECTOR as u64) as usize } else { 0 };
        let window = if self.is_direct { (skip + len).next_multiple_of(SECTOR) } else { len };
        self.fill(position - skip as u64, &mut buffer.pages[..window], skip + len)
            .map_err(|e| Error::io(&self.path, format!("read {len} bytes at {position}"), e))?;
        Ok(&buffer.pages[skip..skip + len])
    }

    /// Fills `out` with the bytes from `position` on.
    ///
    /// # Errors
    /// As [`ReadFile::read`].
    ///
    /// # Panics
    /// When reads go past the page cache and place, length or memory is no multiple of a sector.
    pub fn read_into(&self, position: u64, out: &mut [u8]) -> Result<()> {
        let is_aligned = [position, out.len() as u64, out.as_ptr() as u64];
        assert!(!self.is_direct || is_aligned.iter().all(|place| place.is_multiple_of(SECTOR as u64)));
        let len = out.len();
        self.fill(position, out, len)
            .map_err(|e| Error::io(&self.path, format!("read {len} bytes at {position}"), e))
    }

    /// Reads into `window` until `needed` bytes are there.
    fn fill(&self, position: u64, window: &mut [u8], needed: usize) -> io::Result<()> {
        let mut done = 0;
        while done < needed {
            match self.file.read_at(&mut window[done..], position + done as u64) {
                Ok(0) => return Err(too_short()),
                Ok(count) => done += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            // Past the cache only the end of the file cuts a sector.
            if self.is_direct && done < needed && !done.is_multiple_of(SECTOR) {
                return Err(too_short());
            }
        }
        Ok(())
    }
}

fn too_short() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the file has become shorter")
}

#[cfg(unix)]
mod platform {
    use std::io;
    use std::os::unix::fs::FileExt;

    #[derive(Debug)]
    pub(super) struct File(std::fs::File);

    impl File {
        pub(super) fn new(file: std::fs::File, _is_direct: bool) -> Self {
            Self(file)
        }

        pub(super) fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
            self.0.read_at(out, position)
        }
    }

    /// A second handle to the same file that bypasses the page cache.
    #[cfg(target_os = "linux")]
    pub(super) fn reopen_direct(file: &std::fs::File) -> Option<std::fs::File> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(same).ok()
    }

    /// The same. A copy of the handle would share the flag with the mapping, so the file is opened anew by its path,
    /// if that still leads to it.
    #[cfg(target_os = "macos")]
    pub(super) fn reopen_direct(file: &std::fs::File) -> Option<std::fs::File> {
        use std::ffi::{CStr, OsStr};
        use std::os::fd::AsRawFd;
        use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};
        let mut path = [0u8; libc::PATH_MAX as usize];
        // SAFETY: the call writes a path of at most PATH_MAX bytes with its zero to the live array.
        let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETPATH, path.as_mut_ptr()) };
        let path = CStr::from_bytes_until_nul(&path).ok().filter(|_| status != -1)?;
        let again = std::fs::File::open(OsStr::from_bytes(path.to_bytes())).ok()?;
        let (one, other) = (file.metadata().ok()?, again.metadata().ok()?);
        if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
            return None;
        }
        // SAFETY: a plain system call on an open descriptor; no memory is passed.
        let status = unsafe { libc::fcntl(again.as_raw_fd(), libc::F_NOCACHE, 1) };
        (status != -1).then_some(again)
    }

    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    pub(super) fn reopen_direct(_file: &std::fs::File) -> Option<std::fs::File> {
        None
    }
}

#[cfg(windows)]
mod platform {
    use std::io;
    use std::os::windows::fs::FileExt;
    use std::os::windows::io::{AsRawHandle, FromRawHandle};
    use std::sync::{Mutex, PoisonError};
    use windows_sys::Win32::Foundation::{GENERIC_READ, INVALID_HANDLE_VALUE};
    use windows_sys::Win32::Storage::FileSystem::{
        FILE_FLAG_NO_BUFFERING, FILE_FLAGS_AND_ATTRIBUTES, FILE_SHARE_DELETE, FILE_SHARE_READ,
        FILE_SHARE_WRITE, ReOpenFile,
    };

    /// Reads of one handle wait for each other, so every reader has its own while it reads.
    #[derive(Debug)]
    pub(super) struct File {
        idle: Mutex<Vec<std::fs::File>>,
        original: std::fs::File,
        flags: FILE_FLAGS_AND_ATTRIBUTES,
    }

    impl File {
        pub(super) fn new(original: std::fs::File, is_direct: bool) -> Self {
            let flags = if is_direct { FILE_FLAG_NO_BUFFERING } else { 0 };
            Self { idle: Mutex::default(), original, flags }
        }

        pub(super) fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
            let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let handle = idle().pop();
            let Some(handle) = handle.or_else(|| reopen(&self.original, self.flags)) else {
                return self.original.seek_read(out, position);
            };
            let read = handle.seek_read(out, position);
            idle().push(handle);
            read
        }
    }

    pub(super) fn reopen_direct(file: &std::fs::File) -> Option<std::fs::File> {
        reopen(file, FILE_FLAG_NO_BUFFERING)
    }

    /// A second handle to the same file, whatever has its name by now.
    fn reopen(file: &std::fs::File, flags: FILE_FLAGS_AND_ATTRIBUTES) -> Option<std::fs::File> {
        let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
        // SAFETY: a plain system call on an open handle; no memory is passed.
        let handle = unsafe { ReOpenFile(file.as_raw_handle(), GENERIC_READ, share, flags) };
        // SAFETY: the handle is a new one, open, and nobody else's.
        (handle != INVALID_HANDLE_VALUE).then(|| unsafe { std::fs::File::from_raw_handle(handle) })
    }
}

#[cfg(not(any(unix, windows)))]
use portable as platform;

/// For systems without positional reads: one reader at a time.
#[cfg(any(test, not(any(unix, windows))))]
mod portable {
    use std::io::{self, Read, Seek, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    #[derive(Debug)]
    pub(super) struct File(Mutex<std::fs::File>);

    impl File {
        pub(super) fn new(file: std::fs::File, _is_direct: bool) -> Self {
            Self(Mutex::new(file))
        }

        pub(super) fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
            let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(position))?;
            file.read(out)
        }
    }

    #[cfg(not(any(unix, windows)))]
    pub(super) fn reopen_direct(_file: &std::fs::File) -> Option<std::fs::File> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const LEN: usize = 3 * SECTOR + 1234;

    fn bytes() -> Vec<u8> {
        (0..LEN as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn places() -> impl Iterator<Item = (usize, usize)> {
        let edges = [0, 1, SECTOR - 1, SECTOR, SECTOR + 7, 2 * SECTOR, LEN - 1, LEN];
        edges.into_iter().flat_map(move |a| edges.map(|b| (a, b))).filter(|(a, b)| a <= b)
    }

    #[test]
    fn every_way_reads_the_same_bytes() {
        // Not in /tmp, which on many machines is a file system without reads past the cache.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, bytes()).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        let portable = portable::File::new(File::open(&path).unwrap(), false);
        let mut buffer = ReadBuffer::new(LEN).unwrap();
        for past_cache in [false, true] {
            let file = ReadFile::open(&mapping, past_cache).unwrap();
            assert!(past_cache || !file.is_direct());
            for (start, end) in places() {
                let found = file.read(start as u64, end - start, &mut buffer).unwrap();
                assert_eq!(found, &mapping[start..end], "{start}..{end}");
                let mut twin = vec![0; end - start];
                let count = portable.read_at(&mut twin, start as u64).unwrap();
                assert_eq!(twin[..count], mapping[start..end], "{start}..{end}");
            }
            let mut pages = Pages::new(2 * SECTOR).unwrap();
            file.read_into(SECTOR as u64, &mut pages).unwrap();
            assert_eq!(*pages, mapping[SECTOR..3 * SECTOR]);
            assert!(file.read_into(2 * SECTOR as u64, &mut pages).is_err(), "beyond the end");
        }
    }

    #[test]
    fn several_threads_read_at_once() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, bytes()).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        for past_cache in [false, true] {
            let file = ReadFile::open(&mapping, past_cache).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut buffer = ReadBuffer::new(LEN).unwrap();
                        for (start, end) in places() {
                            let found = file.read(start as u64, end - start, &mut buffer).unwrap();
                            assert_eq!(found, &mapping[start..end], "{start}..{end}");
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn a_read_beyond_the_end_is_an_error_with_name_and_place() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, &bytes()[..SECTOR]).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        let mut buffer = ReadBuffer::new(LEN).unwrap();
        for past_cache in [false, true] {
            let file = ReadFile::open(&mapping, past_cache).unwrap();
            assert!(file.read(10, SECTOR - 10, &mut buffer).is_ok());
            let message = file.read(10, SECTOR, &mut buffer).unwrap_err().to_string();
            for part in ["bytes: cannot read 4096 bytes at 10", "shorter"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}
