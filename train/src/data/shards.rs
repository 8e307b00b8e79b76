//! Folders of `shard_*.npy`: rows of token ids, ours or anybody's, such as those that Acceleron's loader reads.
//!
//! A shard is one stream of tokens, however long its rows are: it is read in pieces of the context, each token in one
//! piece. A piece runs on into the next row where the context does not divide the rows; what is left over is less than
//! a piece at the end of the shard. Rows shorter than the context are refused: Acceleron fills them up with token 1 and
//! learns to predict it, which nobody wants. Ids are checked once for all before a training, and again when a piece is
//! read; which pieces are read when is the mixture's business.

use super::npy::{Dtype, Header};
use crate::{Error, Result};
use moewe_engine::os::mapping::Mapping;
use std::path::{Path, PathBuf};

/// Mappings that are kept; a folder with more shards opens them row by row, since a process may not hold many files.
const MOST_OPEN: usize = 256;

/// The rows of one folder.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>, // sorted by name
    ends: Vec<u64>,     // piece after the last of each
    context: usize,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    header: Header,
    mapping: Option<Mapping>,
}

impl Shards {
    /// Opens all shards of `folder` for pieces of `context` tokens.
    ///
    /// # Errors
    /// No shards, broken ones, and rows that are too short.
    pub fn open(folder: &Path, context: usize) -> Result<Self> {
        let paths = paths(folder)?;
        let keep = paths.len() <= MOST_OPEN;
        let shards =
            paths.into_iter().map(|path| Shard::open(path, context, keep)).collect::<Result<Vec<_>>>()?;
        let mut rows = 0u64;
        let mut ends = Vec::with_capacity(shards.len());
        for shard in &shards {
            rows = rows.saturating_add(shard.tokens() / context as u64);
            ends.push(rows);
        }
        Ok(Self { shards, ends, context })
    }

    /// Number of pieces.
    pub fn rows(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Tokens of all shards, those left over at their ends included.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(Shard::tokens).sum()
    }

    /// Tokens of the longest row that is stored.
    pub fn longest_row(&self) -> usize {
        self.shards.iter().map(|shard| shard.header.columns).max().unwrap_or_default()
    }

    /// The files with the header of each.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &Header)> {
        self.shards.iter().map(|shard| (shard.path.as_path(), &shard.header))
    }

    /// For each shard the piece after its last.
    pub(super) fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// Reads piece `index` into `out`, which holds as many tokens as the context.
    ///
    /// # Errors
    /// An id that is negative or not below `vocabulary`, and files that changed or went away.
    pub fn row(&self, index: u64, vocabulary: usize, out: &mut [u32]) -> Result<()> {
        assert!(index < self.rows() && out.len() == self.context, "row {index} of {}", self.rows());
        let number = self.ends.partition_point(|&end| end <= index);
        let first = if number == 0 { 0 } else { self.ends[number - 1] };
        self.shards[number].row(index - first, vocabulary, out)
    }
}

/// The shards of a folder, sorted by name.
fn paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, "list", error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io(folder, "list", error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("shard_") && name.ends_with(".npy") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let hint = "none (`moewe train shards` makes them)";
        return Err(Error::malformed(folder, "", "files named shard_*.npy", hint));
    }
    Ok(paths)
}

impl Shard {
    fn open(path: PathBuf, context: usize, keep: bool) -> Result<Self> {
        let mapping = Mapping::open(&path)?;
        let header = Header::read(&path, &mapping)?;
        if header.columns < context {
            let expected = format!("rows of at least {context} tokens, the context (they are not filled up)");
            return Err(Error::malformed(&path, "shape", expected, header.columns));
        }
        mapping.advise_random();
        Ok(Self { path, header, mapping: keep.then_some(mapping) })
    }

    fn tokens(&self) -> u64 {
        self.header.rows * self.header.columns as u64
    }

    fn row(&self, piece: u64, vocabulary: usize, out: &mut [u32]) -> Result<()> {
        let opened;
        let mapping = match &self.mapping {
            Some(mapping) => mapping,
            None => {
                opened = Mapping::open(&self.path)?;
                &opened
            }
        };
        let length = out.len() * self.header.dtype.bytes();
        let start = self.header.offset + piece as usize * length;
        let bytes = mapping.get(start..start + length).ok_or_else(|| {
            Error::malformed(&self.path, "length", "the length it had when it was opened", mapping.len())
        })?;
        let outside = decode(self.header.dtype, bytes, vocabulary, out);
        let first = piece * out.len() as u64;
        outside.map_or(Ok(()), |(at, id)| {
            Err(beyond(&self.path, &self.header, vocabulary, (first + at as u64, id)))
        })
    }
}

/// An error about the token `at` of a shard, an id that the vocabulary lacks.
pub(super) fn beyond(path: &Path, header: &Header, vocabulary: usize, (at, id): (u64, i64)) -> Error {
    let columns = header.columns.max(1) as u64;
    let expected =
        format!("ids of a vocabulary of {vocabulary}; were the shards made with another tokenizer?");
    Error::malformed(path, format!("row {}, column {}", at / columns, at % columns), expected, id)
}

/// Reads ids; the first that the vocabulary lacks, with its place.
pub(super) fn decode(dtype: Dtype, bytes: &[u8], vocabulary: usize, out: &mut [u32]) -> Option<(usize, i64)> {
    fn all<const N: usize>(bytes: &[u8], value: fn([u8; N]) -> i64) -> impl Iterator<Item = i64> {
        bytes.as_chunks::<N>().0.iter().map(move |&chunk| value(chunk))
    }
    let mut fill = |ids: &mut dyn Iterator<Item = i64>| {
        for (column, (out, id)) in out.iter_mut().zip(ids).enumerate() {
            match u32::try_from(id) {
                Ok(good) if (good as usize) < vocabulary => *out = good,
                _ => return Some((column, id)),
            }
        }
        None
    };
    match dtype {
        Dtype::U16 => fill(&mut all(bytes, |id| u16::from_le_bytes(id).into())),
        Dtype::U32 => fill(&mut all(bytes, |id| u32::from_le_bytes(id).into())),
        Dtype::I32 => fill(&mut all(bytes, |id| i32::from_le_bytes(id).into())),
        Dtype::I64 => fill(&mut all(bytes, i64::from_le_bytes)),
    }
}

#[cfg(test)]
pub(super) mod tests;
