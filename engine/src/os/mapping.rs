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
        #[cfg(unix)]
        self.hint("random", self.map.advise(memmap2::Advice::Random));
    }

    /// Tells the system to read these bytes soon; out-of-range ends are cut off.
    pub fn advise_will_need(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start >= end {
            return;
        }
        #[cfg(unix)]
        self.hint(
            "will need",
            self.map.advise_range(memmap2::Advice::WillNeed, range.start, end - range.start),
        );
    }

    /// Tells the system that these bytes will not be touched soon: their pages leave this process's memory and come back
    /// from the file when they are. Out-of-range ends are cut off.
    pub fn advise_done(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start >= end {
            return;
        }
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is read-only and backed by its file, so a dropped page returns with the same bytes.
            self.hint("done", unsafe {
                self.map.unchecked_advise_range(advice, range.start, end - range.start)
            });
        }
    }

    /// A hint that fails changes nothing but speed.
    #[cfg(unix)]
    fn hint(&self, advice: &str, outcome: std::io::Result<()>) {
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
