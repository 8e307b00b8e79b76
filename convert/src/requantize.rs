//! A GGUF file as the source: metadata are taken over, weights read in whatever format they have. Parts of a split
//! file become one file.

use crate::calibrate::Guide;
use crate::report::{Progress, Report};
use crate::stream::{Job, Rows, Written};
use crate::{Options, general};
use moewe_engine::Result;
use moewe_engine::gguf::{Bytes, Destination, Gguf, TensorInfo};
use moewe_engine::quant::{Format, Kind};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// One tensor of the source.
pub(crate) struct Stored {
    name: String,
    format: &'static Format,
    shape: Vec<u64>, // slowest axis first
    bytes: Bytes,
}

impl Stored {
    pub(crate) fn of(gguf: &Gguf, tensor: &TensorInfo) -> Self {
        Self {
            name: tensor.name.clone(),
            format: tensor.format,
            shape: tensor.shape.iter().rev().copied().collect(),
            bytes: gguf.bytes(tensor),
        }
    }

    fn bytes_of(&self, rows: Range<u64>) -> &[u8] {
        let row = self.format.row_bytes(self.columns() as usize);
        &self.bytes[rows.start as usize * row..rows.end as usize * row]
    }
}

impl Rows for Stored {
    fn name(&self) -> &str {
        &self.name
    }
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn read(&self, rows: Range<u64>, out: &mut [f32]) {
        (self.format.dequantize)(self.bytes_of(rows), out);
    }
    fn stored(&self) -> Option<&'static Format> {
        Some(self.format)
    }
    fn copy(&self, rows: Range<u64>, out: &mut [u8]) {
        out.copy_from_slice(self.bytes_of(rows));
    }
}

pub(crate) fn convert(
    src: &Path,
    out: Option<Destination>,
    options: &Options,
    guide: Guide,
    progress: &dyn Progress,
) -> Result<Written> {
    let gguf = Gguf::open(src)?;
    let mut metadata = gguf.metadata().clone();
    for key in ["split.no", "split.count", "split.tensors.count", "moewe.substitutions"] {
        metadata.remove(key);
    }
    general::set_layout_version(&mut metadata);
    let tensors: Vec<Stored> = gguf.tensors().iter().map(|tensor| Stored::of(&gguf, tensor)).collect();
    let release = || {
        let mappings = tensors.iter().filter_map(|tensor| tensor.bytes.file_position());
        let mut last = std::ptr::null();
        for (mapping, _) in mappings {
            if Arc::as_ptr(mapping) != last {
                last = Arc::as_ptr(mapping);
                mapping.advise_done(0..usize::MAX);
            }
        }
    };
    let job = Job { options, progress, release: &release };
    let (report, out) = job.write(metadata, &tensors, guide, out).map_err(|e| e.in_file(src))?;
    Ok((Report { requantized: requantized(&tensors, &report), ..report }, out))
}

/// Block formats of the source that are rounded once more, or written out as the floats that they stand for.
fn requantized(tensors: &[Stored], report: &Report) -> Vec<String> {
    let pairs = tensors.iter().zip(&report.plan);
    let again = pairs.filter(|(tensor, planned)| tensor.format.name != planned.format);
    let names = again.map(|(tensor, _)| tensor.format).filter(|format| format.kind != Kind::Float);
    let names: BTreeSet<&str> = names.map(|format| format.name).collect();
    names.into_iter().map(str::to_owned).collect()
}
