//! Safetensors files: the header is read by the `safetensors` crate, which insists that tensors cover the data
//! without gap or overlap. Only element types and shapes are translated here.

use super::{Checkpoint, Dtype, Found, memory::Bytes, row_major};
use moewe_engine::{Error, Result};
use std::path::Path;

/// Adds every tensor of one file.
pub(super) fn add(checkpoint: &mut Checkpoint, path: &Path, bytes: Bytes) -> Result<()> {
    let file = checkpoint.add_file(path, bytes);
    let bytes = &checkpoint.files[file].1;
    let (header, metadata) = safetensors::SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::malformed("header", "safetensors", e).in_file(path))?;
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
        // Scales of block formats (E8M0) are bytes to us: who knows the block knows what they mean.
        S::U8 | S::F8_E8M0 => Dtype::U8,
        S::BOOL => Dtype::Bool,
        other => {
            let what = format!("tensor {name} has element type {other:?}");
            return Err(Error::unsupported(what, "weights may be F32, F16, BF16, F64 or F8"));
        }
    })
}
