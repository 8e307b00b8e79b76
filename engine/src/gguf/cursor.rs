//! A position in untrusted bytes: reads only what is there and knows which key or tensor it is reading.
//!
//! No allocation happens here on the word of the file: counts are checked against the bytes that remain.

use super::quoted;
use crate::error::{Error, Result};

/// What is being read, for error messages; turned into text only when needed.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Header,
    NthKey(u64),
    Key(&'a str),
    NthTensor(u64),
    Tensor(&'a str),
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => write!(f, "header"),
            Self::NthKey(i) => write!(f, "metadata entry {i}"),
            Self::Key(key) => write!(f, "key {}", quoted(key)),
            Self::NthTensor(i) => write!(f, "tensor {i}"),
            Self::Tensor(name) => write!(f, "tensor {}", quoted(name)),
        }
    }
}

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize, // never beyond bytes.len()
    pub(super) place: Place<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, place: Place::Header }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// An error at the current place.
    pub(super) fn malformed(&self, expected: impl Into<String>, found: impl ToString) -> Error {
        Error::malformed(self.place.to_string(), expected, found)
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            let found = format!("the end of the file {} bytes on", self.remaining());
            return Err(self.malformed(format!("{what} of {len} bytes"), found));
        }
        let start = self.position;
        self.position += len as usize;
        Ok(&self.bytes[start..self.position])
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of things that take at least `bytes_each`; more than the rest of the file holds is an error.
    pub(super) fn count(&mut self, bytes_each: u64, what: &str) -> Result<u64> {
        let count = self.u64(what)?;
        self.check_count(count, bytes_each, what)?;
        Ok(count)
    }

    pub(super) fn check_count(&self, count: u64, bytes_each: u64, what: &str) -> Result<()> {
        let most = self.remaining() / bytes_each;
        if count > most {
            let expected = format!("{what} of at most {most}, the rest of the file has no room for more");
            return Err(self.malformed(expected, count));
        }
        Ok(())
    }

    /// A string with its length before it.
    pub(super) fn string(&mut self, longest: u64, what: &str) -> Result<&'a str> {
        let len = self.u64(what)?;
        if len > longest {
            return Err(self.malformed(format!("{what} of at most {longest} bytes"), format!("{len} bytes")));
        }
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|e| {
            self.malformed(
                format!("{what} in UTF-8"),
                format!("an invalid byte after {} valid ones", e.valid_up_to()),
            )
        })
    }
}
