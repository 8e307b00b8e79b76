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
        Ok(Self { file: platform::File::from(file), path, is_direct })
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
        pub(super) fn from(file: std::fs::File) -> Self {
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

    #[cfg(not(target_os = "linux"))]
    pub(super) fn reopen_direct(_file: &std::fs::File) -> Option<std::fs::File> {
        None
    }
}

#[cfg(not(unix))]
use portable as platform;

/// For systems without positional reads: one reader at a time.
#[cfg(any(test, not(unix)))]
mod portable {
    use std::io::{self, Read, Seek, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    #[derive(Debug)]
    pub(super) struct File(Mutex<std::fs::File>);

    impl File {
        pub(super) fn from(file: std::fs::File) -> Self {
            Self(Mutex::new(file))
        }

        pub(super) fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
            let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(position))?;
            file.read(out)
        }
    }

    #[cfg(not(unix))]
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
        let portable = portable::File::from(File::open(&path).unwrap());
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
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_with_name_and_place() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, bytes()).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(SECTOR as u64).unwrap();
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
