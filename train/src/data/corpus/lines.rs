//! Lines of a text file, compressed or not, each checked to be UTF-8 and of bounded length.
//!
//! What a line means is its caller's business.

use super::LONGEST_DOCUMENT;
use crate::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const BUFFER: usize = 256 << 10;

/// A text file read line by line.
pub(in crate::data) struct Lines {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    number: u64,    // of the line last read, from 1
    bytes: Vec<u8>, // that line
}

impl Lines {
    pub(in crate::data) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        let file = BufReader::with_capacity(BUFFER, file);
        let is_compressed = path.extension().is_some_and(|ending| ending == "gz");
        let reader: Box<dyn BufRead + Send> = if is_compressed {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { reader, path: path.to_owned(), number: 0, bytes: Vec::new() })
    }

    /// The next line without its end; `None` after the last.
    pub(in crate::data) fn next(&mut self) -> Result<Option<&str>> {
        self.bytes.clear();
        self.number += 1;
        let mut reader = (&mut self.reader).take(LONGEST_DOCUMENT as u64 + 1);
        let read = reader.read_until(b'\n', &mut self.bytes);
        match read.map_err(|error| Error::io(&self.path, format!("read line {}", self.number), error))? {
            0 => return Ok(None),
            length if length > LONGEST_DOCUMENT => return Err(self.too_long()),
            _ => {}
        }
        let line = std::str::from_utf8(&self.bytes);
        let line = line.map_err(|error| self.malformed("UTF-8", error))?;
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        Ok(Some(if self.number == 1 { line.trim_start_matches('\u{FEFF}') } else { line }))
    }

    /// Whether `error` is about the content of the line last read, so that the next can be read.
    pub(super) fn is_at_fault(&self, error: &Error) -> bool {
        let is_content = matches!(error, Error::Common(moewe_engine::Error::Malformed { .. }));
        is_content && self.bytes.len() <= LONGEST_DOCUMENT
    }

    /// An error about the line last read.
    pub(super) fn malformed(&self, expected: &str, found: impl ToString) -> Error {
        Error::malformed(&self.path, format!("line {}", self.number), expected, found)
    }

    /// A document that does not end.
    pub(super) fn too_long(&self) -> Error {
        let expected = format!(
            "documents of at most {} MiB (--documents says what separates them)",
            LONGEST_DOCUMENT >> 20
        );
        self.malformed(&expected, "more")
    }
}
