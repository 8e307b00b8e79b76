//! Opens a model: parses header, metadata and tensor directory of one file or of all parts of a split one.
//!
//! A [`Gguf`] that exists is sound: every tensor lies aligned inside its file, none overlap, names are unique.
//! Tensor data is never read here.

use super::bytes::Bytes;
use super::cursor::Cursor;
use super::metadata::Metadata;
use super::tensor::TensorInfo;
use super::value::Value;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MIN_ALIGNMENT, mistaken, quoted, split};
use crate::error::{Error, Result};
use crate::quant::Format;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// An open model file, or all files of a split model.
#[derive(Clone, Debug)]
pub struct Gguf {
    path: Option<PathBuf>, // of the first part
    version: u32,
    metadata: Metadata, // of the first part
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>, // tensor name -> position in `tensors`
    parts: Vec<Bytes>,             // whole files
}

/// One parsed file.
pub(super) struct Part {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) file: Bytes,
}

impl Gguf {
    /// Opens `path`; of a split model the first part, whose siblings are found by name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let first = open_part(path)?;
        let parts = split::open_siblings(path, first)?;
        Ok(Self { path: Some(path.to_owned()), ..Self::join(parts).map_err(|e| e.in_file(path))? })
    }

    /// Reads a model that is part of the program. The address must be a multiple of 8 (`#[repr(align(8))]`).
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        Self::from_bytes(Bytes::from(bytes))
    }

    /// Reads a model from any bytes whose address is a multiple of 8.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        if !(bytes.as_ptr() as usize).is_multiple_of(MIN_ALIGNMENT as usize) {
            return Err(Error::request(format!(
                "a model in memory must be aligned to {MIN_ALIGNMENT} bytes"
            )));
        }
        let part = Part::parse(bytes)?;
        if split::count(&part.metadata)? > 1 {
            return Err(Error::unsupported(
                "a part of a split model in memory",
                "open the first file by its path",
            ));
        }
        Self::join(vec![part])
    }

    fn join(parts: Vec<Part>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { unreachable!("a model has a first part") };
        let (version, metadata) = (first.version, first.metadata);
        let (mut tensors, mut files) = (first.tensors, vec![first.file]);
        for part in parts {
            let number = files.len();
            tensors.extend(part.tensors.into_iter().map(|tensor| TensorInfo { part: number, ..tensor }));
            files.push(part.file);
        }
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                let place = format!("tensor {}", quoted(&tensor.name));
                return Err(Error::malformed(place, "unique names", "a second one of this name"));
            }
        }
        Ok(Self { path: None, version, metadata, tensors, index, parts: files })
    }

    /// Keys and values; of a split model those of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the order of the directory.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor's blocks. They start at a multiple of 8 in memory. Panics for a tensor of another file.
    pub fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        let start = tensor.offset as usize;
        self.parts[tensor.part].slice(start..start + tensor.byte_len() as usize)
    }

    /// The same model with other bytes in the place of one tensor, of the same shape. Nothing is copied but the directory.
    ///
    /// # Errors
    /// When there is no such tensor, or the bytes are not as many as it needs.
    pub fn with_tensor(&self, name: &str, format: &'static Format, bytes: Vec<u8>) -> Result<Self> {
        let place = || format!("tensor {}", quoted(name));
        let mut changed = self.clone();
        let old = *self.index.get(name).ok_or_else(|| Error::malformed(place(), "a tensor", "none"))?;
        let tensor = TensorInfo::new(name.to_owned(), format, self.tensors[old].shape.clone())?;
        if tensor.byte_len() != bytes.len() as u64 {
            return Err(Error::malformed(place(), format!("{} bytes", tensor.byte_len()), bytes.len()));
        }
        changed.tensors[old] = TensorInfo { part: changed.parts.len(), ..tensor };
        changed.parts.push(Bytes::from(bytes));
        Ok(changed)
    }

    /// The same model with another value of a key.
    #[must_use]
    pub fn with_metadata(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.set(key, value);
        self
    }

    /// The file it was opened from, the first one of a split model.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether one of its files is what `path` names, through whatever links.
    pub fn is_read_from(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        let files = self.parts.iter().filter_map(Bytes::file_position);
        files.into_iter().any(|(file, _)| file.path().canonicalize().is_ok_and(|file| file == path))
    }

    /// GGUF version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of all files together.
    pub fn file_len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// Number of files.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }
}

pub(super) fn open_part(path: &Path) -> Result<Part> {
    Part::parse(Bytes::open(path)?).map_err(|e| e.in_file(path))
}

impl Part {
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
