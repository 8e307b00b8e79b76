//! Zeroed memory straight from the system: whole pages, filled when first touched, given back when dropped.
//!
//! For what is large and lives long or must lie on page boundaries; everything else is the allocator's.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use memmap2::{MmapMut, MmapRaw};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A private, page-aligned buffer; dereferences to its bytes. Several may be pieces of one allocation.
#[derive(Debug)]
pub struct Pages {
    map: Arc<MmapRaw>, // at least one byte
    start: usize,      // of these bytes, which no other piece has
    len: usize,
}

impl Pages {
    /// `len` zeros.
    ///
    /// # Errors
    /// When the system has no such room.
    pub fn new(len: usize) -> Result<Self> {
        let map = MmapMut::map_anon(len.max(1));
        let map = map.map_err(|e| Error::request(format!("cannot reserve {len} bytes of memory: {e}")))?;
        // Larger pages save the processor address lookups. A refused hint changes nothing but speed.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map: Arc::new(map.into()), start: 0, len })
    }

    /// Takes the first `len` bytes off, as a piece of its own.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn split_to(&mut self, len: usize) -> Self {
        assert!(len <= self.len, "{len} of {} bytes", self.len);
        let first = Self { map: self.map.clone(), start: self.start, len };
        (self.start, self.len) = (self.start + len, self.len - len);
        first
    }

    /// Puts the piece back that lies before these bytes.
    ///
    /// # Panics
    /// When it does not.
    pub fn prepend(&mut self, before: Self) {
        assert!(Arc::ptr_eq(&self.map, &before.map) && before.start + before.len == self.start);
        (self.start, self.len) = (before.start, before.len + self.len);
    }

    /// Where these bytes begin in their allocation.
    pub fn place(&self) -> usize {
        self.start
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are inside of the mapping, which lives as long as `map`, and no other piece has them.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are inside of the mapping, no other piece has them, and this one is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_aligned_and_writable() {
        for len in [0, 1, 4096, 100_000] {
            let mut pages = Pages::new(len).unwrap();
            assert_eq!(pages.len(), len);
            assert!((pages.as_ptr() as usize).is_multiple_of(4096) && pages.iter().all(|&byte| byte == 0));
            pages.fill(7);
            assert!(pages.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn pieces_are_apart_and_come_together_again() {
        let mut rest = Pages::new(8192).unwrap();
        let mut pieces = [10, 0, 4086, 96].map(|len| rest.split_to(len));
        for (number, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.iter().all(|&byte| byte == 0));
            piece.fill(number as u8 + 1);
        }
        assert_eq!(pieces.each_ref().map(Pages::place), [0, 10, 10, 4096]);
        pieces.into_iter().rev().for_each(|piece| rest.prepend(piece));
        assert!(rest.len() == 8192 && rest.place() == 0);
        assert!(rest[..10].iter().all(|&byte| byte == 1) && rest[10..4096].iter().all(|&byte| byte == 3));
        assert!(rest[4096..4192].iter().all(|&byte| byte == 4) && rest[4192..].iter().all(|&byte| byte == 0));
        let last = rest.split_to(100);
        drop(rest);
        assert_eq!(last[99], 3, "the allocation lives as long as a piece");
    }

    #[test]
    #[should_panic(expected = "before.start")]
    fn only_neighbours_come_together() {
        let mut rest = Pages::new(100).unwrap();
        let (first, _) = (rest.split_to(10), rest.split_to(10));
        rest.prepend(first);
    }

    #[test]
    fn too_much_is_an_error() {
        let message = Pages::new(usize::MAX >> 2).unwrap_err().to_string();
        assert!(message.contains("cannot reserve"), "{message}");
    }
}
