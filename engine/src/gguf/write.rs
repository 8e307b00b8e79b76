//! Writes a GGUF file front to back in little memory: directory first, then tensor after tensor.
//!
//! A file appears under its name only when it is complete: it is written beside the target under a temporary name,
//! synced and renamed. Splitting into parts is not done.

use super::destination::{Destination, Existing};
use super::metadata::Metadata;
use super::part::alignment;
use super::tensor::TensorInfo;
use super::{MAGIC, VERSION, quoted};
use crate::error::{Error, Result};
use crate::quant::Format;
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file whose directory is settled; choose where it goes with [`Writer::create`] or [`Writer::over`].
#[derive(Debug)]
pub struct Writer {
    header: Vec<u8>, // up to the first tensor's bytes, padded
    tensors: Vec<TensorInfo>,
    alignment: u64,
    file_len: u64,
}

impl Writer {
    /// Lays out a file. Every tensor comes as name, format and shape (row length first).
    ///
    /// # Errors
    /// A name that is empty, too long or used twice, a shape without whole blocks, an alignment that is none, or more than a
    /// file can hold.
    pub fn new<N: Into<String>>(
        metadata: Metadata,
        tensors: Vec<(N, &'static Format, Vec<u64>)>,
    ) -> Result<Self> {
        let alignment = alignment(&metadata)?;
        let (mut names, mut placed, mut offset) = (HashSet::new(), Vec::with_capacity(tensors.len()), 0u64);
        for (name, format, shape) in tensors {
            let mut tensor = TensorInfo::new(name.into(), format, shape)?;
            if !names.insert(tensor.name.clone()) {
                let place = format!("tensor {}", quoted(&tensor.name));
                return Err(Error::malformed(place, "unique names", "a second one of this name"));
            }
            tensor.offset = offset;
            offset = end_of(offset, tensor.byte_len(), alignment)?;
            placed.push(tensor);
        }
        let header = header(&metadata, &placed, alignment)?;
        let file_len = (header.len() as u64).checked_add(offset).ok_or_else(too_large)?;
        Ok(Self { header, tensors: placed, alignment, file_len })
    }

    /// Bytes the finished file will have.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Starts the file `path` under a temporary name, makes sure of room for all of it and writes the header. An
    /// existing file stays until [`TensorWriter::finish`] replaces it; [`Writer::into`] lets a caller keep it.
    ///
    /// # Errors
    /// As [`Destination::create`] and [`Writer::into`].
    pub fn create(self, path: impl AsRef<Path>) -> Result<FileWriter> {
        self.into(Destination::create(path, Existing::Replace)?)
    }

    /// Makes sure of room for all of the file that was begun, and writes the header.
    ///
    /// # Errors
    /// When there is no room, or the system cannot write.
    pub fn into(self, destination: Destination) -> Result<FileWriter> {
        destination.reserve(self.file_len)?;
        let path = destination.target().to_owned();
        self.start(destination, &path)
    }

    /// Writes the header to `out`, whatever that is.
    ///
    /// # Errors
    /// When `out` does not take it.
    pub fn over<W: Write>(self, out: W) -> Result<TensorWriter<W>> {
        self.start(out, Path::new("output"))
    }

    fn start<W: Write>(self, out: W, path: &Path) -> Result<TensorWriter<W>> {
        let Self { header, tensors, alignment, .. } = self;
        let path = path.to_owned();
        let mut writer = TensorWriter { out, path, tensors, alignment, current: 0, written: None };
        writer.write(&header)?;
        Ok(writer)
    }
}

fn end_of(start: u64, len: u64, alignment: u64) -> Result<u64> {
    start.checked_add(len).and_then(|end| end.checked_next_multiple_of(alignment)).ok_or_else(too_large)
}

fn too_large() -> Error {
    Error::request("the tensors together are larger than any file")
}

fn header(metadata: &Metadata, tensors: &[TensorInfo], alignment: u64) -> Result<Vec<u8>> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    metadata.write(&mut header)?;
    tensors.iter().for_each(|tensor| tensor.write(&mut header));
    if !tensors.is_empty() {
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
    }
    Ok(header)
}

/// Takes the tensors' bytes in the order of the directory.
///
/// Either whole tensors through [`write_tensor`](Self::write_tensor), or piece by piece through
/// [`begin`](Self::begin), [`append`](Self::append) and [`end`](Self::end). Wrong order or length is an error.
#[derive(Debug)]
pub struct TensorWriter<W> {
    out: W,
    path: PathBuf, // for messages
    tensors: Vec<TensorInfo>,
    alignment: u64,
    current: usize,       // tensor that is open or comes next
    written: Option<u64>, // bytes of the open tensor so far
}

/// A writer of a real file.
pub type FileWriter = TensorWriter<Destination>;

impl<W: Write> TensorWriter<W> {
    /// The tensor that is open or comes next.
    pub fn next_tensor(&self) -> Option<&TensorInfo> {
        self.tensors.get(self.current)
    }

    /// All bytes of the next tensor.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), [`append`](Self::append) and [`end`](Self::end).
    pub fn write_tensor(&mut self, bytes: &[u8]) -> Result<()> {
        let name = self.next_tensor().map(|tensor| tensor.name.clone()).unwrap_or_default();
        self.begin(&name)?;
        self.append(bytes)?;
        self.end()
    }

    /// Opens the next tensor, which must be the one called `name`.
    ///
    /// # Errors
    /// When another tensor is open or next.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        let next = self.next_tensor().map_or("the end of the file", |tensor| &tensor.name);
        if self.written.is_some() || next != name || self.current == self.tensors.len() {
            return Err(Error::request(format!(
                "cannot write tensor {} now: {} is next",
                quoted(name),
                quoted(next)
            )));
        }
        self.written = Some(0);
        Ok(())
    }

    /// Some more bytes of the open tensor.
    ///
    /// # Errors
    /// Without an open tensor, for more bytes than it has, or when the output does not take them.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.written.ok_or_else(|| Error::request("no tensor is open for writing"))?;
        let tensor = &self.tensors[self.current];
        let total = written + bytes.len() as u64;
        if total > tensor.byte_len() {
            return Err(wrong_length(tensor, total));
        }
        self.write(bytes)?;
        self.written = Some(total);
        Ok(())
    }

    /// Closes the open tensor, of which every byte must have come.
    ///
    /// # Errors
    /// Without an open tensor, for fewer bytes than it has, or when the output does not take the padding.
    pub fn end(&mut self) -> Result<()> {
        let written = self.written.take().ok_or_else(|| Error::request("no tensor is open for writing"))?;
        let tensor = &self.tensors[self.current];
        if written != tensor.byte_len() {
            return Err(wrong_length(tensor, written));
        }
        let padding = written.next_multiple_of(self.alignment) - written;
        self.current += 1;
        self.write(&vec![0; padding as usize])
    }

    /// Checks that nothing is missing and hands back the output.
    ///
    /// # Errors
    /// When a tensor was never written, or the output does not take what is buffered.
    pub fn into_inner(mut self) -> Result<W> {
        if let Some(tensor) = self.next_tensor() {
            return Err(Error::request(format!("tensor {} was never written", quoted(&tensor.name))));
        }
        self.out.flush().map_err(|e| Error::io(&self.path, "write", e))?;
        Ok(self.out)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io(&self.path, "write", e))
    }
}

impl FileWriter {
    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// As [`into_inner`](Self::into_inner), or when the system cannot write or rename the file.
    pub fn finish(self) -> Result<()> {
        self.into_inner()?.publish()
    }
}

fn wrong_length(tensor: &TensorInfo, found: u64) -> Error {
    Error::malformed(
        format!("tensor {}", quoted(&tensor.name)),
        format!("{} bytes", tensor.byte_len()),
        found,
    )
}
