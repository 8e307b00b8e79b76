//! Named tensors in safetensors files, written one at a time and read through a mapping.
//!
//! The safetensors crate checks the header of a file that may be hostile; here each tensor is compared with what
//! its reader expects.

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use moewe_engine::os::mapping::Mapping;
use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes the tensors to a new file; on a GPU they come to the host one after the other.
///
/// # Errors
/// A format that safetensors readers do not share, or the disk.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut order: Vec<(&String, &Tensor)> = tensors.iter().collect();
    // The largest elements first keeps every tensor aligned to its own element.
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size_in_bytes()));
    let write = |e| Error::io(path, "write", e);
    let mut file = BufWriter::new(File::create(path).map_err(write)?);
    file.write_all(&header(&order).map_err(|e| malformed(path, e))?).map_err(write)?;
    for (name, tensor) in order {
        let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
        write_data(&tensor, name, &mut file).map_err(write)?;
    }
    file.flush().map_err(write)
}

/// Length and JSON of the header, padded to 8 bytes; "pt" is what Python's loaders look for.
fn header(order: &[(&String, &Tensor)]) -> Result<Vec<u8>, SafeTensorError> {
    let (mut infos, mut offset) = (vec![], 0);
    for (name, tensor) in order {
        let end = offset + tensor.elem_count() * tensor.dtype().size_in_bytes();
        let (dtype, shape) = (tensor.dtype().into(), tensor.dims().to_vec());
        infos.push(((*name).clone(), TensorInfo { dtype, shape, data_offsets: (offset, end) }));
        offset = end;
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut json = serde_json::to_vec(&Metadata::new(Some(format), infos)?)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

/// The elements of a contiguous tensor on the host, little-endian as candle's hosts are.
fn write_data(tensor: &Tensor, name: &str, file: &mut impl Write) -> std::io::Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.start_offset()..layout.start_offset() + tensor.elem_count();
    let Storage::Cpu(storage) = &*storage else { return Err(unwritable(name, "a tensor on the host")) };
    let bytes: &[u8] = match storage {
        CpuStorage::U8(data) => &data[range],
        CpuStorage::U32(data) => bytemuck::cast_slice(&data[range]),
        CpuStorage::I64(data) => bytemuck::cast_slice(&data[range]),
        CpuStorage::BF16(data) => bytemuck::cast_slice(&data[range]),
        CpuStorage::F16(data) => bytemuck::cast_slice(&data[range]),
        CpuStorage::F32(data) => bytemuck::cast_slice(&data[range]),
        CpuStorage::F64(data) => bytemuck::cast_slice(&data[range]),
        _ => return Err(unwritable(name, "U8, U32, I64, BF16, F16, F32 or F64")),
    };
    file.write_all(bytes)
}

fn unwritable(name: &str, expected: &str) -> std::io::Error {
    std::io::Error::other(format!("tensor {name}: expected {expected}"))
}

fn malformed(path: &Path, error: SafeTensorError) -> Error {
    Error::malformed(path, "header", "a safetensors file", error)
}

/// A safetensors file open for reading.
#[derive(Debug)]
pub struct TensorFile {
    map: Mapping,
    data_start: usize, // where the first tensor begins
    metadata: Metadata,
}

impl TensorFile {
    /// Maps the file and checks its header.
    ///
    /// # Errors
    /// The file cannot be opened, is cut short or is none of this kind.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Mapping::open(path)?;
        let read = safetensors::SafeTensors::read_metadata(&map);
        let (header, metadata) = read.map_err(|e| malformed(path, e))?;
        Ok(Self { map, data_start: header + 8, metadata })
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// There is no tensor of this name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    /// The element type of a tensor.
    ///
    /// # Errors
    /// There is no tensor of this name, or its type is none that we compute with.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let found = self.info(name)?.dtype;
        let known = [DType::F32, DType::BF16, DType::F16, DType::F64];
        let own = known.into_iter().find(|&dtype| safetensors::Dtype::from(dtype) == found);
        own.ok_or_else(|| Error::malformed(self.map.path(), name, "F32, BF16, F16 or F64", found))
    }

    /// Copies a tensor to `device`; its shape and element type must be the expected ones.
    ///
    /// # Errors
    /// It is missing or different, or the device is full.
    pub fn read(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let info = self.info(name)?;
        if info.shape != shape || info.dtype != dtype.into() {
            let found = format!("{} {:?}", info.dtype, info.shape);
            let expected = format!("{} {shape:?}", safetensors::Dtype::from(dtype));
            return Err(Error::malformed(self.map.path(), name, expected, found));
        }
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.data_start + start..self.data_start + end];
        Ok(Tensor::from_raw_buffer(bytes, dtype, shape, device)?)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || Error::malformed(self.map.path(), name, "a tensor of this name", "none");
        self.metadata.info(name).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, Tensor> {
        let range = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap();
        let matrix = range.reshape((3, 4)).unwrap();
        BTreeMap::from([
            ("bf16".into(), matrix.to_dtype(DType::BF16).unwrap()),
            ("count".into(), Tensor::new(7i64, &Device::Cpu).unwrap()),
            ("empty".into(), Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap()),
            ("mask".into(), Tensor::new(&[1u8, 0, 1], &Device::Cpu).unwrap()),
            ("narrow".into(), range.narrow(0, 3, 5).unwrap()),
            ("transposed".into(), matrix.t().unwrap()),
        ])
    }

    fn written() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_tensors(&path, &sample()).unwrap();
        (folder, path)
    }

    #[test]
    fn tensors_come_back_as_they_went() {
        let (_folder, path) = written();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names(), sample().into_keys().collect::<Vec<_>>());
        for (name, tensor) in sample() {
            let read = file.read(&name, tensor.dims(), tensor.dtype(), &Device::Cpu).unwrap();
            let numbers = |tensor: &Tensor| {
                tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
            };
            assert_eq!(numbers(&read), numbers(&tensor), "{name}");
        }
        assert_eq!(file.shape("transposed").unwrap(), [4, 3]);
    }

    #[test]
    fn the_crate_reads_what_we_write() {
        let (_folder, path) = written();
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("mask").unwrap().data(), [1, 0, 1]);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn what_is_not_expected_is_named() {
        let (_folder, path) = written();
        let file = TensorFile::open(&path).unwrap();
        let read = |name: &str, shape: &[usize], dtype| {
            file.read(name, shape, dtype, &Device::Cpu).unwrap_err().to_string()
        };
        let error = read("bf16", &[4, 3], DType::BF16);
        assert!(error.contains("bf16: expected BF16 [4, 3], found BF16 [3, 4]"), "{error}");
        assert!(read("bf16", &[3, 4], DType::F32).contains("expected F32"));
        assert!(read("gone", &[1], DType::F32).contains("gone: expected a tensor of this name"));
    }

    #[test]
    fn every_cut_is_noticed() {
        let (_folder, path) = written();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(TensorFile::open(&path).is_err(), "{length} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn a_format_that_readers_do_not_share_is_refused() {
        let tensor = Tensor::zeros(2, DType::F8E4M3, &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let error = write_tensors(&path, &BTreeMap::from([("w".into(), tensor)])).unwrap_err().to_string();
        assert!(error.contains("tensor w: expected U8"), "{error}");
    }
}
