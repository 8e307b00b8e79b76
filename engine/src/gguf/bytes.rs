//! A cheap owned handle to a range of a file, of the program's own data, or of memory.
//!
//! Tensors and string arrays are handed out as [`Bytes`], so nothing is copied at load. It does not know what
//! the bytes mean.

use crate::os::mapping::Mapping;
use crate::os::pages::Pages;
use std::ops::{Bound, Deref, RangeBounds};
use std::path::Path;
use std::sync::Arc;

/// Where bytes live.
#[derive(Clone, Debug)]
pub enum Source {
    /// A mapped file.
    File(Arc<Mapping>),
    /// Part of the program, such as a model inside the binary.
    Static(&'static [u8]),
    /// Allocated memory.
    Memory(Arc<[u8]>),
    /// Memory straight from the system.
    Pages(Arc<Pages>),
}

/// A range of a [`Source`]. Cloning and slicing cost no copy; the source lives as long as its last handle.
#[derive(Clone)]
pub struct Bytes {
    source: Source,
    start: usize,
    len: usize,
}

impl Bytes {
    /// All bytes of a source.
    pub fn new(source: Source) -> Self {
        let mut bytes = Self { source, start: 0, len: 0 };
        bytes.len = bytes.whole().len();
        bytes
    }

    /// Maps a whole file.
    pub(super) fn open(path: &Path) -> crate::Result<Self> {
        Ok(Self::new(Source::File(Arc::new(Mapping::open(path)?))))
    }

    /// The bytes `range` of this handle. Panics when the range leaves it, as slices do.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(start <= end && end <= self.len, "range {start}..{end} of {} bytes", self.len);
        Self { source: self.source.clone(), start: self.start + start, len: end - start }
    }

    /// File and position of the first byte, for reading without page faults; `None` for memory.
    pub fn file_position(&self) -> Option<(&Arc<Mapping>, u64)> {
        match &self.source {
            Source::File(mapping) => Some((mapping, self.start as u64)),
            _ => None,
        }
    }

    /// Asks the system to read these bytes soon; nothing to do for memory.
    pub fn advise_will_need(&self) {
        if let Source::File(mapping) = &self.source {
            mapping.advise_will_need(self.start..self.start + self.len);
        }
    }

    /// Tells the system that these bytes are not needed soon: their pages leave this process's memory and come back from
    /// the file when they are touched. Nothing to do for memory.
    pub fn advise_done(&self) {
        if let Source::File(mapping) = &self.source {
            mapping.advise_done(self.start..self.start + self.len);
        }
    }

    fn whole(&self) -> &[u8] {
        match &self.source {
            Source::File(mapping) => mapping,
            Source::Static(bytes) => bytes,
            Source::Memory(bytes) => bytes,
            Source::Pages(pages) => pages,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.whole()[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Source::Memory(bytes.into()))
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self::new(Source::Static(bytes))
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match &self.source {
            Source::File(mapping) => mapping.path().display().to_string(),
            Source::Static(_) => "static".into(),
            Source::Memory(_) | Source::Pages(_) => "memory".into(),
        };
        write!(f, "Bytes({place}, {}..{})", self.start, self.start + self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_slices_point_into_the_source() {
        let bytes = Bytes::from((0..100u8).collect::<Vec<_>>());
        let part = bytes.slice(10..50).slice(5..=7);
        assert_eq!(&part[..], [15, 16, 17]);
        assert_eq!(part.slice(..).len(), 3);
        assert_eq!(part.slice(3..).len(), 0);
        assert!(part.file_position().is_none());
    }

    #[test]
    fn a_slice_of_a_file_knows_its_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let part = Bytes::open(&path).unwrap().slice(2..).slice(3..5);
        part.advise_will_need();
        assert_eq!(&part[..], b"56");
        let (mapping, position) = part.file_position().unwrap();
        assert_eq!((mapping.path(), position), (&*path, 5));
    }

    #[test]
    #[should_panic(expected = "range 3..9 of 5 bytes")]
    fn a_slice_never_leaves_its_handle() {
        Bytes::from((0..100u8).collect::<Vec<_>>()).slice(0..5).slice(3..9);
    }
}
