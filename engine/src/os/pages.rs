//! Zeroed memory straight from the system: whole pages, filled when first touched, given back when dropped.
//!
//! For what is large and lives long or must lie on page boundaries; everything else is the allocator's.

use crate::error::{Error, Result};
use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// A private, page-aligned buffer; dereferences to its bytes.
#[derive(Debug)]
pub struct Pages {
    map: MmapMut,
    len: usize, // asked for; the mapping has at least one byte
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
        Ok(Self { map, len })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
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
    fn too_much_is_an_error() {
        let message = Pages::new(usize::MAX >> 2).unwrap_err().to_string();
        assert!(message.contains("cannot reserve"), "{message}");
    }
}
