//! Opens a model of one file, or of all parts of a split one, and finds its tensors by name.
//!
//! A [`Gguf`] that exists is sound: every tensor lies aligned inside its file, none overlap, names are unique.
//! Tensor data is never read here.

use super::bytes::Bytes;
use super::metadata::Metadata;
use super::part::Part;
use super::tensor::TensorInfo;
use super::value::Value;
use super::{MIN_ALIGNMENT, quoted, split};
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

impl Gguf {
    /// Opens `path`; of a split model the first part, whose siblings are found by name.
    ///
    /// # Errors
    /// A file that cannot be opened or mapped, one that breaks a rule of the format, or a part of a split model that is
    /// missing or another's; each names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let first = Part::open(path)?;
        let parts = split::open_siblings(path, first)?;
        Ok(Self { path: Some(path.to_owned()), ..Self::join(parts).map_err(|e| e.in_file(path))? })
    }

    /// Reads a model that is part of the program. The address must be a multiple of 8 (`#[repr(align(8))]`).
    ///
    /// # Errors
    /// As [`Gguf::from_bytes`].
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        Self::from_bytes(Bytes::from(bytes))
    }

    /// Reads a model from any bytes whose address is a multiple of 8.
    ///
    /// # Errors
    /// Another address, bytes that break a rule of the format, or a part of a split model.
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

    /// Its files, whole, in the order of their parts.
    pub(crate) fn parts(&self) -> &[Bytes] {
        &self.parts
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
