//! `dataset.json`: what a folder of shards was made from, so that training can check what it is given.
//!
//! Written by [`super::prepare`], read by [`super::mixture`].

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The manifest's file name.
pub const FILE: &str = "dataset.json";

const LARGEST_FILE: u64 = 16 << 20;

/// What a dataset is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// BLAKE3 of tokenizer.json, in hexadecimal digits.
    pub tokenizer_blake3: String,
    /// Number of ids, special ones included.
    pub vocabulary_size: usize,
    /// The id after each document.
    pub eos_id: u32,
    /// Tokens of a row.
    pub context: usize,
    /// NumPy's name of the integers.
    pub dtype: String,
    /// Share of the tokens that was to be held out for validation.
    pub holdout: f64,
    /// Whether documents that came again were left out.
    pub deduplicated: bool,
    /// Sources in the order they were read, each a folder of that name.
    pub sources: Vec<Entry>,
}

/// One source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name and folder.
    pub name: String,
    /// Documents left out because they had come before, in this source or an earlier one.
    pub duplicates: u64,
    /// What is trained on.
    pub train: Counts,
    /// What was held out.
    pub valid: Counts,
}

/// The size of one split of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Tokens with one end per document; up to `context - 1` at the end are in no row.
    pub tokens: u64,
    /// Rows in the shards.
    pub rows: u64,
    /// Shards.
    pub shards: u64,
}

impl Counts {
    /// Adds another split or source.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
        self.rows += other.rows;
        self.shards += other.shards;
    }
}

impl Manifest {
    /// Documents left out and the sizes of both splits, over all sources.
    pub fn total(&self) -> Entry {
        let mut total = Entry { name: "all".to_owned(), ..Entry::default() };
        for source in &self.sources {
            total.duplicates += source.duplicates;
            total.train.add(&source.train);
            total.valid.add(&source.valid);
        }
        total
    }

    /// The manifest of `folder`; `None` where there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let length = match path.metadata() {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "look at", error)),
        };
        if length > LARGEST_FILE {
            return Err(Error::malformed(path, "size", "a manifest of at most 16 MiB", length));
        }
        let text = std::fs::read(&path).map_err(|error| Error::io(&path, "read", error))?;
        let manifest = serde_json::from_slice(&text);
        manifest.map(Some).map_err(|error| Error::malformed(&path, "", "the manifest of a dataset", error))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        std::fs::write(&path, text).map_err(|error| Error::io(&path, "write", error))
    }
}
