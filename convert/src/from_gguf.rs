//! A GGUF file as the source: metadata are taken over, weights read in whatever format they have. Parts of a split
//! file become one file.

use crate::general;
use crate::report::{Planned, Report};
use crate::source::{Change, Source, change_all};
use crate::tensor::{Rows, Subject, Tensor};
use moewe_engine::Result;
use moewe_engine::gguf::{Bytes, Gguf, Metadata};
use moewe_engine::quant::{Format, Kind};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// A model in a GGUF file, which it keeps mapped.
pub(crate) struct FromGguf {
    metadata: Metadata,
    tensors: Vec<Tensor<'static>>,
    bytes: Vec<Bytes>, // of all tensors
}

impl FromGguf {
    pub(crate) fn new(gguf: &Gguf) -> Self {
        let mut metadata = gguf.metadata().clone();
        for key in ["split.no", "split.count", "split.tensors.count", "moewe.substitutions"] {
            metadata.remove(key);
        }
        general::set_layout_version(&mut metadata);
        let bytes: Vec<Bytes> = gguf.tensors().iter().map(|tensor| gguf.bytes(tensor)).collect();
        let tensor = |(tensor, bytes): (&moewe_engine::gguf::TensorInfo, &Bytes)| {
            let format = tensor.format;
            let subject = Subject {
                name: tensor.name.clone(),
                shape: tensor.shape.iter().rev().copied().collect(),
                stored: Some(format),
                float: (format.kind == Kind::Float).then_some(format),
                is_original: format.name == "MXFP4", // the one that says so by itself
                padding: 0,
            };
            let row_bytes = format.row_bytes(subject.columns() as usize);
            Tensor { contents: Arc::new(Stored { format, row_bytes, bytes: bytes.clone() }), subject }
        };
        let tensors = gguf.tensors().iter().zip(&bytes).map(tensor).collect();
        Self { metadata, tensors, bytes }
    }
}

impl Source for FromGguf {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[Tensor<'_>] {
        &self.tensors
    }

    fn change(&mut self, change: &mut dyn Change) -> Result<()> {
        change_all(&mut self.tensors, change)
    }

    fn release(&self) {
        let mappings = self.bytes.iter().filter_map(Bytes::file_position);
        let mut last = std::ptr::null();
        for (mapping, _) in mappings {
            if Arc::as_ptr(mapping) != last {
                last = Arc::as_ptr(mapping);
                mapping.advise_done(0..usize::MAX);
            }
        }
    }

    /// Block formats that are rounded once more, or written out as the floats that they stand for.
    fn tell(&self, report: &mut Report) {
        report.requantized = requantized(&self.tensors, &report.plan);
    }
}

/// The block formats of tensors that are planned in others, or that are not what the file has.
pub(crate) fn requantized(tensors: &[Tensor], plan: &[Planned]) -> Vec<String> {
    let of = |tensor: &Tensor| match (tensor.subject.stored, tensor.subject.float) {
        (Some(stored), _) => Some((stored, false)),
        (None, changed) => changed.map(|format| (format, true)),
    };
    let pairs = tensors.iter().zip(plan).filter_map(|(tensor, planned)| Some((of(tensor)?, planned)));
    let again = pairs.filter(|((stored, is_changed), planned)| *is_changed || stored.name != planned.format);
    let names = again.map(|((stored, _), _)| stored).filter(|stored| stored.kind != Kind::Float);
    let names: BTreeSet<&str> = names.map(|stored| stored.name).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// The rows of a tensor in the file.
struct Stored {
    format: &'static Format,
    row_bytes: usize,
    bytes: Bytes,
}

impl Stored {
    fn bytes_of(&self, rows: Range<u64>) -> &[u8] {
        &self.bytes[rows.start as usize * self.row_bytes..rows.end as usize * self.row_bytes]
    }
}

impl Rows for Stored {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        (self.format.dequantize)(self.bytes_of(rows), out);
        Ok(())
    }

    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(self.bytes_of(rows));
        Ok(())
    }
}
