//! A whole file mapped read-only into memory, with hints to the page cache.
//!
//! The file must not shrink while it is mapped: touching a page beyond its new end ends the process with SIGBUS
//! on Unix (`fault.rs` says which file it was). Writers of this project therefore never truncate a file in place; they
//! rename a finished one over it, and a mapping keeps the old contents.

use super::fault::Watched;
use super::files::regular;
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// A read-only mapping; dereferences to the file's bytes.
#[derive(Debug)]
pub struct Mapping {
    _watched: Watched, // dropped before the addresses are given back
    map: Mmap,         // starts at a page boundary
    file: File,        // the handle that was mapped, for positional reads of the same inode
    path: PathBuf,     // as it was opened
}

impl Mapping {
    /// Maps the whole of `path`, which must be a regular file.
    ///
    /// # Errors
    /// When it is no regular file, is empty, or the system cannot open or map it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        regular(path)?;
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let status = file.metadata().map_err(|e| Error::io(path, "read the size", e))?;
        if status.len() == 0 {
            return Err(Error::malformed("", "a file with contents", "an empty file").in_file(path));
        }
        // SAFETY: the mapping is private to reading; that nobody truncates or rewrites the file in place is the
        // assumption of every mapped reader, stated in this module's documentation.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map into memory", e))?;
        let watched = Watched::new(map.as_ptr_range(), path);
        Ok(Self { _watched: watched, map, file, path: path.to_owned() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file behind the mapping.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Tells the system that pages will be touched without order: no read-ahead.
    pub fn advise_random(&self) {
        self.hint("random", platform::random(&self.map));
    }

    /// Tells the system to read these bytes soon; out-of-range ends are cut off.
    pub fn advise_will_need(&self, range: Range<usize>) {
        if let Some(range) = self.within(range) {
            self.hint("will need", platform::will_need(&self.map, range));
        }
    }

    /// Tells the system that these bytes will not be touched soon: their pages leave this process's memory and come back
    /// from the file when they are. Out-of-range ends are cut off.
    pub fn advise_done(&self, range: Range<usize>) {
        if let Some(range) = self.within(range) {
            self.hint("done", platform::done(&self.map, range));
        }
    }

    /// What of a range is in the file; `None` for nothing.
    fn within(&self, range: Range<usize>) -> Option<Range<usize>> {
        let end = range.end.min(self.map.len());
        (range.start < end).then_some(range.start..end)
    }

    /// A hint that fails changes nothing but speed.
    fn hint(&self, advice: &str, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            tracing::debug!(path = %self.path.display(), advice, %error, "the system refused advice");
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(unix)]
mod platform {
    use memmap2::{Advice, Mmap, UncheckedAdvice};
    use std::io;
    use std::ops::Range;

    pub(super) fn random(map: &Mmap) -> io::Result<()> {
        map.advise(Advice::Random)
    }

    pub(super) fn will_need(map: &Mmap, range: Range<usize>) -> io::Result<()> {
        map.advise_range(Advice::WillNeed, range.start, range.len())
    }

    pub(super) fn done(map: &Mmap, range: Range<usize>) -> io::Result<()> {
        // SAFETY: the mapping is read-only and backed by its file, so a dropped page returns with the same bytes.
        unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) }
    }
}

#[cfg(windows)]
mod platform {
    use memmap2::Mmap;
    use std::io;
    use std::ops::Range;
    use windows_sys::Win32::Foundation::{ERROR_NOT_LOCKED, TRUE};
    use windows_sys::Win32::System::Memory::{
        PrefetchVirtualMemory, VirtualUnlock, WIN32_MEMORY_RANGE_ENTRY,
    };
    use windows_sys::Win32::System::Threading::GetCurrentProcess;

    /// Pages without order are what Windows expects of a mapping.
    pub(super) fn random(_map: &Mmap) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn will_need(map: &Mmap, range: Range<usize>) -> io::Result<()> {
        let bytes = &map[range];
        let start = bytes.as_ptr().cast_mut().cast();
        let range = WIN32_MEMORY_RANGE_ENTRY { VirtualAddress: start, NumberOfBytes: bytes.len() };
        // SAFETY: one live entry, whose addresses are in the mapping; the call reads both and keeps neither.
        match unsafe { PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0) } {
            TRUE => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Unlocking pages that are not locked fails, and takes them from the working set.
    pub(super) fn done(map: &Mmap, range: Range<usize>) -> io::Result<()> {
        let bytes = &map[range];
        // SAFETY: the addresses are in the mapping, which is read-only and backed by its file, so a dropped page returns
        // with the same bytes.
        if unsafe { VirtualUnlock(bytes.as_ptr().cast(), bytes.len()) } == TRUE {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(ERROR_NOT_LOCKED as i32) { Ok(()) } else { Err(error) }
    }
}

#[cfg(not(any(unix, windows)))]
mod platform {
    use memmap2::Mmap;
    use std::io::Result;
    use std::ops::Range;

    pub(super) fn random(_map: &Mmap) -> Result<()> {
        Ok(())
    }

    pub(super) fn will_need(_map: &Mmap, _range: Range<usize>) -> Result<()> {
        Ok(())
    }

    pub(super) fn done(_map: &Mmap, _range: Range<usize>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_the_bytes_and_survives_any_advice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        mapping.advise_random();
        mapping.advise_done(0..usize::MAX);
        for range in [0..1, 4097..9000, 9999..20_000, 20_000..30_000, 0..usize::MAX] {
            mapping.advise_will_need(range);
        }
        assert_eq!(&mapping[..], &bytes[..]);
        assert_eq!(mapping.path(), path);
    }

    #[test]
    fn says_what_is_wrong_with_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, []).unwrap();
        for (path, part) in [
            (folder.path().to_owned(), "a folder"),
            (empty, "an empty file"),
            (folder.path().join("absent"), "cannot open"),
        ] {
            let message = Mapping::open(&path).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
            assert!(message.contains(&*folder.path().to_string_lossy()), "{message}");
        }
    }
}
