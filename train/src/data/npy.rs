//! The header of a `.npy` file (NumPy's format, versions 1 to 3) for arrays of token ids: little-endian integers in two
//! dimensions, C order. Everything else is refused.
//!
//! The header is a Python literal, but NumPy always writes the same few keys, so a small scanner of our own is enough;
//! the crate `npyz` multiplies a stranger's dimensions without looking and nests as deep as the file asks.

use crate::{Error, Result};
use std::path::Path;

const MAGIC: &[u8] = b"\x93NUMPY";
const LONGEST: usize = 4096; // of a header's text; NumPy's own is 118 bytes
/// Length of the headers we write, a multiple of 64 as the format demands.
pub(super) const HEADER: usize = 128;

/// The integers that an array may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// 16 bits, for vocabularies up to 65,536.
    U16,
    /// 32 bits.
    U32,
    /// 32 bits with sign, only read.
    #[value(skip)]
    I32,
    /// 64 bits with sign, only read.
    #[value(skip)]
    I64,
}

/// Each with NumPy's name and its bytes.
const DTYPES: [(Dtype, &str, usize); 4] =
    [(Dtype::U16, "<u2", 2), (Dtype::U32, "<u4", 4), (Dtype::I32, "<i4", 4), (Dtype::I64, "<i8", 8)];

impl Dtype {
    fn entry(self) -> (Dtype, &'static str, usize) {
        DTYPES[self as usize]
    }

    /// Bytes of one integer.
    pub(super) fn bytes(self) -> usize {
        self.entry().2
    }

    /// NumPy's name for it.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// The smallest that holds all ids below `vocabulary_size`.
    pub fn smallest(vocabulary_size: usize) -> Self {
        if vocabulary_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }
}

/// What a header says, checked against the file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub dtype: Dtype,
    pub rows: u64,
    pub columns: usize,
    pub offset: usize, // of the first byte of the array
}

impl Header {
    /// Reads the header of the file whose whole content is `bytes`.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let (text, offset) = text(bytes).ok_or_else(|| {
            Error::malformed(path, "header", "a NumPy array (.npy) of version 1 to 3", "something else")
        })?;
        let (dtype, rows, columns) = interpret(text).map_err(|(expected, found)| {
            Error::malformed(path, "header", expected, found.chars().take(200).collect::<String>())
        })?;
        let length = columns.checked_mul(dtype.bytes() as u64).and_then(|row| row.checked_mul(rows));
        match (length, usize::try_from(columns)) {
            (Some(length), Ok(columns)) if length == (bytes.len() - offset) as u64 => {
                Ok(Self { dtype, rows, columns, offset })
            }
            _ => {
                let expected = format!("{rows} rows of {columns} {} after the header", dtype.name());
                let found = format!("{} bytes (is the file complete?)", bytes.len() - offset);
                Err(Error::malformed(path, "length", expected, found))
            }
        }
    }

    /// The header in NumPy's spelling, [`HEADER`] bytes long.
    pub(super) fn write(dtype: Dtype, rows: u64, columns: usize) -> Vec<u8> {
        let shape = format!("({rows}, {columns})");
        let name = dtype.name();
        let text = format!("{{'descr': '{name}', 'fortran_order': False, 'shape': {shape}, }}");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend(((HEADER - 10) as u16).to_le_bytes());
        bytes.extend(format!("{text:<width$}\n", width = HEADER - 11).bytes());
        bytes
    }
}

/// The header's text and where it ends.
fn text(bytes: &[u8]) -> Option<(&str, usize)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (start, length) = match (rest.first()?, rest.get(2..4)?, rest.get(2..6)) {
        (1, short, _) => (10, usize::from(u16::from_le_bytes(short.try_into().ok()?))),
        (2 | 3, _, Some(long)) => (12, u32::from_le_bytes(long.try_into().ok()?) as usize),
        _ => return None,
    };
    let end = start + Some(length).filter(|&length| length <= LONGEST)?;
    Some((std::str::from_utf8(bytes.get(start..end)?).ok()?, end))
}

/// Type, rows and columns, or what was expected and found.
fn interpret(text: &str) -> Result<(Dtype, u64, u64), (&'static str, &str)> {
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let descr = value("descr").unwrap_or(text);
    let is_it = |name: &str| descr.strip_prefix('\'').and_then(|rest| rest.strip_prefix(name)).is_some();
    let dtype = DTYPES.iter().find(|(_, name, _)| is_it(&format!("{name}'")));
    let (dtype, _, _) = dtype.ok_or(("little-endian integers: <u2, <u4, <i4 or <i8", descr))?;
    if !value("fortran_order").is_some_and(|rest| rest.starts_with("False")) {
        return Err(("'fortran_order': False", text));
    }
    let shape = value("shape").unwrap_or(text);
    let inside = shape.strip_prefix('(').and_then(|rest| Some(rest.split_once(')')?.0)).unwrap_or_default();
    let mut sizes = inside.trim_end().trim_end_matches(',').split(',').map(|size| size.trim().parse::<u64>());
    match (sizes.next(), sizes.next(), sizes.next()) {
        (Some(Ok(rows)), Some(Ok(columns)), None) => Ok((*dtype, rows, columns)),
        _ => Err(("a shape (rows, columns)", shape)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &[u8], data: usize) -> Vec<u8> {
        [header, &vec![0; data]].concat()
    }

    fn with_text(text: &str) -> Vec<u8> {
        let length = (text.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, text.as_bytes()].concat()
    }

    #[test]
    fn what_is_written_is_read_here_and_elsewhere() {
        for (dtype, _, bytes) in DTYPES {
            let file = file(&Header::write(dtype, 3, 5), 15 * bytes);
            let header = Header::read(Path::new("x"), &file).unwrap();
            assert_eq!(header, Header { dtype, rows: 3, columns: 5, offset: HEADER });
            let independent = npyz::NpyFile::new(&file[..]).unwrap();
            assert_eq!((independent.shape(), independent.order()), (&[3, 5][..], npyz::Order::C));
            assert_eq!(independent.dtype().descr(), format!("'{}'", dtype.name()));
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = Header::write(Dtype::U16, 2, 2);
        let huge = "{'descr': '<u2', 'fortran_order': False, 'shape': (9223372036854775807, 4), }";
        let wide = "{'descr': '<u2', 'fortran_order': False, 'shape': (0, 18446744073709551615), }";
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![], "NumPy array"),
            (b"\x93NUMPY".to_vec(), "NumPy array"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "NumPy array"),
            (b"\x93NUMPY\x09\x00\x01\x00}".to_vec(), "NumPy array"),
            (good[..60].to_vec(), "NumPy array"),
            (file(&good, 7), "2 rows of 2"),
            (file(&good, 9), "2 rows of 2"),
            (with_text(huge), "9223372036854775807 rows"),
            (with_text(wide), "0 rows of 18446744073709551615"),
            (with_text(&"(".repeat(4000)), "little-endian integers"),
            (with_text(&huge.replace("<u2", ">u2")), "little-endian integers"),
            (with_text(&huge.replace("<u2", "<f4")), "found '<f4'"),
            (with_text(&huge.replace("False", "True")), "fortran_order"),
            (with_text(&huge.replace(", 4)", ",)")), "a shape"),
            (with_text(&huge.replace(", 4)", ", 4, 1)")), "a shape"),
            (with_text(&huge.replace(", 4)", ", -4)")), "a shape"),
            (with_text("{'descr': [('a', '<u2')]"), "little-endian integers"),
        ];
        for (bytes, expected) in cases {
            let message = Header::read(Path::new("bad.npy"), &bytes).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("bad.npy"), "{message}");
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut bytes = file(&Header::write(Dtype::U32, 1, 1), 4);
        for at in 0..HEADER {
            for value in [0, b'(', b'\'', b'9', 0xFF] {
                let before = std::mem::replace(&mut bytes[at], value);
                let _ = Header::read(Path::new("x"), &bytes);
                bytes[at] = before;
            }
        }
    }
}
