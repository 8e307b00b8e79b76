//! Safetensors files: the header is read by the `safetensors` crate, which insists that tensors cover the data
//! without gap or overlap. Only element types and shapes are translated here.

use super::contents::{Checkpoint, Dtype, Found, row_major};
use super::memory::Bytes;
use moewe_engine::{Error, Result};
use std::path::Path;

/// The crate reads no longer ones.
const LONGEST_HEADER: u64 = 100_000_000;

/// Adds every tensor of one file.
pub(super) fn add(checkpoint: &mut Checkpoint, path: &Path, bytes: Bytes) -> Result<()> {
    let file = checkpoint.add_file(path, bytes);
    let bytes = &checkpoint.files[file].1;
    let (header, metadata) =
        safetensors::SafeTensors::read_metadata(bytes).map_err(|e| broken(bytes, e).in_file(path))?;
    let data = header + 8;
    let mut found = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let shape: Vec<u64> = info.shape.iter().map(|&len| len as u64).collect();
        let strides = row_major(&shape).ok_or_else(|| {
            Error::malformed(format!("tensor {name}"), "a possible shape", format!("{shape:?}"))
        })?;
        let dtype = dtype(info.dtype, &name).map_err(|e| e.in_file(path))?;
        let (start, end) = info.data_offsets;
        found.push(Found { name, dtype, shape, strides, file, start: data + start, end: data + end });
    }
    found.into_iter().try_for_each(|tensor| checkpoint.add_tensor(tensor)).map_err(|e| e.in_file(path))
}

/// Why a file cannot be read: most often its end is missing.
fn broken(bytes: &[u8], error: safetensors::SafeTensorError) -> Error {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    let ends_in_header = length < LONGEST_HEADER && length.saturating_add(8) > bytes.len() as u64;
    let header = usize::try_from(length).ok().and_then(|length| bytes.get(8..)?.get(..length));
    let needed = header.and_then(last_byte).map(|last| last.saturating_add(length).saturating_add(8));
    let needed = needed.or_else(|| ends_in_header.then_some(length.saturating_add(8)));
    match needed.filter(|&needed| needed > bytes.len() as u64) {
        Some(needed) => Error::malformed(
            "size",
            format!("at least {needed} bytes, as the header says"),
            format!("{}: the file is incomplete, download it again", bytes.len()),
        ),
        None => Error::malformed("header", "safetensors", error),
    }
}

/// Where the data ends, by the header's own words.
fn last_byte(header: &[u8]) -> Option<u64> {
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    header.as_object()?.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64()).max()
}

fn dtype(dtype: safetensors::Dtype, name: &str) -> Result<Dtype> {
    use safetensors::Dtype as S;
    Ok(match dtype {
        S::F64 => Dtype::F64,
        S::F32 => Dtype::F32,
        S::F16 => Dtype::F16,
        S::BF16 => Dtype::Bf16,
        S::F8_E4M3 => Dtype::F8E4M3,
        S::F8_E5M2 => Dtype::F8E5M2,
        S::I64 => Dtype::I64,
        S::I32 => Dtype::I32,
        S::I16 => Dtype::I16,
        S::I8 => Dtype::I8,
        S::F8_E8M0 => Dtype::F8E8M0,
        S::U8 => Dtype::U8,
        S::BOOL => Dtype::Bool,
        other => {
            let what = format!("tensor {name} has element type {other:?}");
            return Err(Error::unsupported(what, "weights may be F32, F16, BF16, F64 or F8"));
        }
    })
}
