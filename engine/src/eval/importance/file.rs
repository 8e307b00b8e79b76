//! Importance files of llama.cpp: GGUF (`general.type` is `imatrix`; `NAME.in_sum2` and `NAME.counts` per tensor),
//! read and written, and the older `.dat`, read. Source: tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp there.

use super::{Entry, Importance};
use crate::error::{Error, Result};
use crate::gguf::{Destination, Existing, Gguf, MAGIC, Metadata, Writer};
use crate::quant::Format;
use std::collections::BTreeMap;
use std::path::Path;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

impl Importance {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// When it cannot be read, or is no importance file, or its figures are no mean squares.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        let read = if bytes.starts_with(&MAGIC) { from_gguf(&Gguf::open(path)?) } else { from_dat(&bytes) };
        let importance = Self { file: Some(path.to_owned()), ..read.map_err(|error| error.in_file(path))? };
        importance.check().map_err(|error| error.in_file(path))?;
        Ok(importance)
    }

    /// Writes the GGUF kind, which llama.cpp reads too. The file appears when it is complete.
    ///
    /// # Errors
    /// When it cannot be written, or exists and is kept.
    pub fn write(&self, path: impl AsRef<Path>, existing: Existing) -> Result<()> {
        let mut metadata = Metadata::new();
        metadata.set("general.type", "imatrix");
        metadata.set(DATASETS, self.datasets.clone());
        metadata.set(CHUNK_COUNT, self.chunks);
        metadata.set(CHUNK_SIZE, self.chunk_size);
        let float = Format::by_name("F32").expect("F32 is in the table");
        let shapes = self.entries.iter().flat_map(|(name, entry)| {
            let experts = entry.counts.len().max(1) as u64;
            let columns = entry.sums.len() as u64 / experts;
            [
                (format!("{name}{SUMS}"), float, vec![columns, experts]),
                (format!("{name}{COUNTS}"), float, vec![1, experts]),
            ]
        });
        let destination = Destination::create(path, existing)?;
        let mut file = Writer::new(metadata, shapes.collect())?.into(destination)?;
        for entry in self.entries.values() {
            let counts: Vec<f32> = entry.counts.iter().map(|&count| count as f32).collect();
            file.write_tensor(bytemuck::cast_slice(&entry.sums))?;
            file.write_tensor(bytemuck::cast_slice(&counts))?;
        }
        file.finish()
    }

    /// Whether a file is of the GGUF kind, by its metadata.
    pub fn is_importance(gguf: &Gguf) -> bool {
        matches!(gguf.metadata().str("general.type"), Ok(Some("imatrix")))
    }

    fn check(&self) -> Result<()> {
        for (name, entry) in &self.entries {
            let is_bad = |value: f64| !value.is_finite() || value < 0.0;
            let bad_sum = entry.sums.iter().map(|&sum| f64::from(sum)).find(|&sum| is_bad(sum));
            if let Some(bad) = bad_sum.or(entry.counts.iter().copied().find(|&count| is_bad(count))) {
                let expected = "sums of squares and counts";
                return Err(Error::malformed(format!("tensor {}", shorten(name)), expected, bad));
            }
        }
        match self.entries.is_empty() {
            true => Err(Error::malformed("", "importance of at least one tensor", "none")),
            false => Ok(()),
        }
    }
}

/// Names come from strangers; messages stay short.
fn shorten(name: &str) -> String {
    format!("{:?}", name.chars().take(80).collect::<String>())
}

fn from_gguf(gguf: &Gguf) -> Result<Importance> {
    if !Importance::is_importance(gguf) {
        return Err(Error::malformed("key `general.type`", "\"imatrix\"", "another kind of file"));
    }
    let floats = |name: &str| -> Result<Vec<f32>> {
        let place = || format!("tensor {}", shorten(name));
        let tensor = gguf.tensor(name).ok_or_else(|| Error::malformed(place(), "a tensor", "none"))?;
        if tensor.format.name != "F32" {
            return Err(Error::malformed(place(), "F32", tensor.format));
        }
        let mut values = vec![0f32; tensor.elements() as usize];
        (tensor.format.dequantize)(&gguf.bytes(tensor), &mut values);
        Ok(values)
    };
    let mut entries = BTreeMap::new();
    for name in gguf.tensors().iter().filter_map(|tensor| tensor.name.strip_suffix(SUMS)) {
        let sums = floats(&format!("{name}{SUMS}"))?;
        let counts: Vec<f64> = floats(&format!("{name}{COUNTS}"))?.into_iter().map(f64::from).collect();
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            let expected = format!("as many experts as divide {} sums", sums.len());
            return Err(Error::malformed(
                format!("tensor {}{COUNTS}", shorten(name)),
                expected,
                counts.len(),
            ));
        }
        entries.insert(name.to_owned(), Entry { sums, counts });
    }
    let metadata = gguf.metadata();
    let datasets = metadata.get(DATASETS).and_then(|value| value.as_array()?.as_strings());
    let number = |key| metadata.u64(key).ok().flatten().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    Ok(Importance {
        entries,
        datasets: datasets.map(|names| names.map(str::to_owned).collect()).unwrap_or_default(),
        chunks: number(CHUNK_COUNT),
        chunk_size: number(CHUNK_SIZE),
        file: None,
    })
}

/// The older kind: how many entries; each a name, how often it was computed (`calls`), and the means times `calls`;
/// then the number of chunks and the text's name. All numbers are 32 bits, little-endian.
fn from_dat(bytes: &[u8]) -> Result<Importance> {
    let mut rest = Rest { bytes, at: 0 };
    let mut importance = Importance::default();
    for _ in 0..rest.count("number of entries")? {
        let name = rest.name()?;
        let calls = rest.count("calls")?.max(1);
        let len = rest.count("number of values")?;
        let values = rest.take(len.checked_mul(4).ok_or_else(|| rest.broken("values that fit a file"))?)?;
        let sums = values.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        importance.entries.insert(name, Entry { sums, counts: vec![calls as f64] });
    }
    // Old writers stopped here.
    if rest.at < bytes.len() {
        importance.chunks = rest.count("number of chunks")? as u32;
        importance.datasets.push(rest.name()?);
    }
    Ok(importance)
}

/// A file read from front to back.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn broken(&self, expected: &str) -> Error {
        Error::malformed(format!("byte {}", self.at), expected, "something else; is this an importance file?")
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        let taken = taken.ok_or_else(|| self.broken(&format!("{len} more bytes")))?;
        self.at += len;
        Ok(taken)
    }

    fn count(&mut self, what: &str) -> Result<usize> {
        let place = Self { ..*self };
        let number = self.take(4)?.first_chunk().map_or(-1, |&bytes| i32::from_le_bytes(bytes));
        usize::try_from(number).map_err(|_| place.broken(what))
    }

    fn name(&mut self) -> Result<String> {
        let len = self.count("length of a name")?;
        let place = Self { ..*self };
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| place.broken("a name in UTF-8"))
    }
}
