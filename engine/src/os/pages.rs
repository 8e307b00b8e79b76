//! Zeroed memory straight from the system: whole pages, filled when first touched, given back when dropped.
//!
//! For what is large and lives long or must lie on page boundaries; everything else is the allocator's.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use memmap2::{MmapMut, MmapRaw};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Pieces of one allocation begin at multiples of this, the largest page that is common.
const PIECE_ALIGNMENT: usize = 4096;

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

    /// One allocation in pieces of these lengths, each in pages of its own.
    ///
    /// # Errors
    /// As [`Pages::new`].
    pub fn pieces<const N: usize>(lens: [usize; N]) -> Result<[Self; N]> {
        let room = |len: usize| len.checked_next_multiple_of(PIECE_ALIGNMENT);
        let all = lens.iter().try_fold(0usize, |sum, &len| sum.checked_add(room(len)?));
        let whole = Self::new(all.unwrap_or(usize::MAX >> 1))?;
        let mut start = 0;
        Ok(lens.map(|len| {
            let piece = Self { map: whole.map.clone(), start, len };
            start += len.next_multiple_of(PIECE_ALIGNMENT);
            piece
        }))
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
    fn pieces_are_apart() {
        let mut pieces = Pages::pieces([10, 0, 5000]).unwrap();
        for (number, piece) in pieces.iter_mut().enumerate() {
            assert!((piece.as_ptr() as usize).is_multiple_of(4096) && piece.iter().all(|&byte| byte == 0));
            piece.fill(number as u8 + 1);
        }
        assert_eq!(pieces[1].len(), 0);
        let [first, _, last] = pieces;
        assert_eq!(last.as_ptr() as usize - first.as_ptr() as usize, 4096);
        drop(first);
        assert!(last.iter().all(|&byte| byte == 3), "the allocation lives as long as a piece");
        assert!(Pages::pieces([usize::MAX, 1]).is_err());
    }

    #[test]
    fn too_much_is_an_error() {
        let message = Pages::new(usize::MAX >> 2).unwrap_err().to_string();
        assert!(message.contains("cannot reserve"), "{message}");
    }
}
