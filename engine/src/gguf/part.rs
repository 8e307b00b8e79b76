//! One file: parses its header, metadata and tensor directory, and checks that its tensors lie aligned inside it and
//! share no byte. What several files together mean is not known here.

use super::bytes::Bytes;
use super::cursor::Cursor;
use super::metadata::Metadata;
use super::tensor::TensorInfo;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MIN_ALIGNMENT, mistaken, quoted};
use crate::error::{Error, Result};
use std::path::Path;

/// One parsed file.
pub(super) struct Part {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) file: Bytes,
}

impl Part {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::parse(Bytes::open(path)?).map_err(|e| e.in_file(path))
    }

    /// Parses and checks everything but the tensors' contents.
    pub(super) fn parse(file: Bytes) -> Result<Self> {
        const SMALLEST_ENTRY: u64 = 8 + 4 + 1; // key length, type, value
        const SMALLEST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8; // name length, dimensions, one size, type, offset
        let head = &file[..file.len().min(64)];
        if let Some(error) = mistaken(head) {
            return Err(error);
        }
        let mut cursor = Cursor::new(&file);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.u64("a tensor count")?;
        let entry_count = cursor.count(SMALLEST_ENTRY, "a metadata count")?;
        cursor.check_count(tensor_count, SMALLEST_TENSOR, "a tensor count")?;
        let metadata = Metadata::read(&mut cursor, &file, entry_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors =
            (0..tensor_count).map(|i| TensorInfo::read(&mut cursor, i)).collect::<Result<Vec<_>>>()?;
        let data_start = (cursor.position() as u64).next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(tensor, data_start, alignment, file.len() as u64)?;
        }
        check_overlap(&tensors)?;
        Ok(Self { version, metadata, tensors, file })
    }
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    const AGAIN: &str = "convert the original checkpoint again";
    let magic = cursor.array::<4>("the letters GGUF")?;
    if magic != MAGIC {
        let hint = match &magic {
            b"ggjt" | b"tjgg" | b"ggml" | b"lmgg" | b"ggmf" | b"fmgg" => {
                " (a llama.cpp file from before GGUF)"
            }
            [b'P', b'K', ..] => " (a zip file, perhaps a PyTorch checkpoint: convert it first)",
            _ => "",
        };
        return Err(cursor.malformed("the letters GGUF", format!("\"{}\"{hint}", magic.escape_ascii())));
    }
    match cursor.u32("a version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err(Error::unsupported("GGUF version 1", format!("versions 2 and 3 are; {AGAIN}"))),
        version if matches!(version.swap_bytes(), 1..=3) => Err(Error::unsupported(
            "a big-endian file",
            format!("swap it with gguf-convert-endian (PyPI package gguf) or {AGAIN}"),
        )),
        version => Err(Error::unsupported(format!("GGUF version {version}"), "versions 2 and 3 are")),
    }
}

/// The multiple at which tensors start.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64> {
    let alignment = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        let expected = format!("a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
        return Err(Error::malformed(format!("key {}", quoted(ALIGNMENT_KEY)), expected, alignment));
    }
    Ok(alignment)
}

/// Turns the offset within the data section into one within the file and checks that the bytes are there.
fn place(tensor: &mut TensorInfo, data_start: u64, alignment: u64, file_len: u64) -> Result<()> {
    let at = |tensor: &TensorInfo| format!("tensor {}", quoted(&tensor.name));
    if !tensor.offset.is_multiple_of(alignment) {
        return Err(Error::malformed(
            at(tensor),
            format!("an offset in multiples of {alignment}"),
            tensor.offset,
        ));
    }
    let start = data_start.checked_add(tensor.offset);
    let end = start.and_then(|start| start.checked_add(tensor.byte_len()));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => {
            tensor.offset = start;
            Ok(())
        }
        _ => Err(Error::malformed(
            at(tensor),
            format!("{} bytes at offset {} of the data", tensor.byte_len(), tensor.offset),
            format!(
                "a file of {file_len} bytes whose data starts at {data_start}; the download may be incomplete"
            ),
        )),
    }
}

fn check_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].byte_len() > pair[1].offset {
            let place = format!("tensor {}", quoted(&pair[1].name));
            return Err(Error::malformed(
                place,
                "bytes of its own",
                format!("some shared with {}", quoted(&pair[0].name)),
            ));
        }
    }
    Ok(())
}
