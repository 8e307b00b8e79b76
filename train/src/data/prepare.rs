//! From corpora to a dataset: documents become token ids, are cut into rows and written as shards with a manifest.
//!
//! Which split a document belongs to is a function of its content alone: it does not depend on the order of the
//! documents nor on what else is there, and the same text never stands in both. Training reads the result through
//! [`super::mixture`].

use super::batches::Pass;
use super::corpus::{Separator, Source};
use super::encoder::{Encoder, pieces};
use super::manifest::{self, Counts, Entry, Manifest};
pub use super::npy::Dtype;
use super::partial::Partial;
use super::progress::{Progress, Report};
use super::shard_writer::{Cut, ShardWriter};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Texts are encoded in pieces of this size, so that one novel keeps all cores busy.
const PIECE: usize = 64 << 10;

/// How a dataset is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is read, in this order.
    pub sources: Vec<Source>,
    /// What ends a document in plain text.
    pub separator: Separator,
    /// tokenizer.json.
    pub tokenizer: PathBuf,
    /// The token after each document; `None` is the tokenizer's own.
    pub eos: Option<String>,
    /// Tokens of a row.
    pub context: usize,
    /// Rows of a shard; the last has fewer.
    pub rows_per_shard: u64,
    /// Share of documents that is held out for validation, 0 to 1.
    pub holdout: f64,
    /// Whether documents that come again are left out.
    pub deduplicate: bool,
    /// Integers of the shards; `None` is the smallest that fits.
    pub dtype: Option<Dtype>,
    /// Whether an older dataset is replaced.
    pub force: bool,
    /// Raised to end the work; nothing is left behind.
    pub stop: Arc<AtomicBool>,
}

/// Makes the dataset `out`.
///
/// # Errors
/// Settings that cannot be met, and whatever reading and writing runs into; then there is no `out`.
pub fn prepare(settings: &Settings, out: &Path, report: Report) -> Result<Manifest> {
    let encoder = Encoder::open(&settings.tokenizer, settings.eos.as_deref())?;
    let cut = check(settings, &encoder)?;
    let folder = Partial::begin(out, settings.force, manifest::FILE)?;
    let progress = Progress::begin();
    let mut pass = Pass { separator: settings.separator, stop: &settings.stop, progress, report };
    let mut seen = HashSet::new();
    let mut sources = Vec::new();
    for source in &settings.sources {
        let folder = folder.path().join(&source.name);
        let mut packing = Packing::begin(settings, &encoder, cut, &folder, &source.name);
        pass.run(source, |batch| packing.pack(&batch, &mut seen))?;
        sources.push(packing.finish()?);
    }
    let manifest = Manifest {
        tokenizer_blake3: encoder.hash().to_owned(),
        vocabulary_size: encoder.vocabulary_size(),
        eos_id: encoder.eos(),
        context: cut.context,
        dtype: cut.dtype.name().to_owned(),
        holdout: settings.holdout,
        deduplicated: settings.deduplicate,
        sources,
    };
    check_rows(&manifest)?;
    copy_tokenizer(&settings.tokenizer, folder.path())?;
    manifest.write(folder.path())?;
    folder.place()?;
    Ok(manifest)
}

/// The settings in terms of shards.
fn check(settings: &Settings, encoder: &Encoder) -> Result<Cut> {
    let vocabulary = encoder.vocabulary_size();
    let smallest = Dtype::smallest(vocabulary);
    let dtype = settings.dtype.unwrap_or(smallest);
    if dtype.bytes() < smallest.bytes() {
        let name = dtype.name();
        return Err(Error::request(format!("{name} cannot hold {vocabulary} ids; use --dtype u32")));
    }
    if settings.context < 2 || settings.rows_per_shard == 0 || !(0.0..=1.0).contains(&settings.holdout) {
        let expected = "a context of 2 tokens or more, a row or more per shard and a holdout from 0 to 1";
        let Settings { context, rows_per_shard, holdout, .. } = settings;
        return Err(Error::request(format!(
            "expected {expected}, found {context}, {rows_per_shard}, {holdout}"
        )));
    }
    Ok(Cut { context: settings.context, rows_per_shard: settings.rows_per_shard, dtype })
}

/// A dataset without a row is a mistake somewhere.
fn check_rows(manifest: &Manifest) -> Result<()> {
    let total = manifest.total();
    if total.train.rows + total.valid.rows > 0 {
        return Ok(());
    }
    let tokens = total.train.tokens + total.valid.tokens;
    let context = manifest.context;
    Err(Error::request(format!("{tokens} tokens of data do not fill a row of {context}; shorten --context")))
}

/// Puts the tokenizer beside the data: a model is of no use without it.
fn copy_tokenizer(tokenizer: &Path, folder: &Path) -> Result<()> {
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, folder.join(name)).map(drop).map_err(|error| Error::io(from, "copy", error))
    };
    copy(tokenizer, "tokenizer.json")?;
    let config = tokenizer.with_file_name("tokenizer_config.json");
    if config.is_file() { copy(&config, "tokenizer_config.json") } else { Ok(()) }
}

/// One source on its way into shards.
struct Packing<'a> {
    encoder: &'a Encoder,
    holdout: f64,
    deduplicate: bool,
    entry: Entry,
    train: ShardWriter,
    valid: ShardWriter,
}

impl<'a> Packing<'a> {
    fn begin(settings: &Settings, encoder: &'a Encoder, cut: Cut, folder: &Path, name: &str) -> Self {
        Self {
            encoder,
            holdout: settings.holdout,
            deduplicate: settings.deduplicate,
            entry: Entry { name: name.to_owned(), ..Entry::default() },
            train: ShardWriter::new(folder.join("train"), cut),
            valid: ShardWriter::new(folder.join("valid"), cut),
        }
    }

    /// Encodes and writes documents, leaving out those in `seen`.
    fn pack(&mut self, documents: &[String], seen: &mut HashSet<u128>) -> Result<()> {
        let hashes: Vec<u128> = documents.par_iter().map(|document| content_hash(document)).collect();
        let mut kept: Vec<(&str, u128)> = documents.iter().map(String::as_str).zip(hashes).collect();
        if self.deduplicate {
            kept.retain(|&(_, hash)| seen.insert(hash));
        }
        self.entry.duplicates += (documents.len() - kept.len()) as u64;
        let encoded = self.encode(&kept)?;
        kept.iter().zip(&encoded).try_for_each(|(&(text, hash), ids)| self.write(text, hash, ids))
    }

    /// The ids of each text, piece by piece, in order.
    fn encode(&self, texts: &[(&str, u128)]) -> Result<Vec<Vec<Vec<u32>>>> {
        let size = if self.encoder.may_cut() { PIECE } else { usize::MAX };
        let encode = |piece: &&str| self.encoder.encode(piece);
        texts.par_iter().map(|(text, _)| pieces(text, size).par_iter().map(encode).collect()).collect()
    }

    fn write(&mut self, text: &str, hash: u128, ids: &[Vec<u32>]) -> Result<()> {
        let (writer, counts) = if is_held_out(hash, self.holdout) {
            (&mut self.valid, &mut self.entry.valid)
        } else {
            (&mut self.train, &mut self.entry.train)
        };
        ids.iter().try_for_each(|ids| writer.push(ids))?;
        writer.push(&[self.encoder.eos()])?;
        let tokens = ids.iter().map(Vec::len).sum::<usize>() as u64 + 1;
        counts.add(&Counts { documents: 1, bytes: text.len() as u64, tokens, ..Counts::default() });
        Ok(())
    }

    fn finish(mut self) -> Result<Entry> {
        (self.entry.train.rows, self.entry.train.shards) = self.train.finish()?;
        (self.entry.valid.rows, self.entry.valid.shards) = self.valid.finish()?;
        Ok(self.entry)
    }
}

/// The first 128 bits of BLAKE3 over the words of `text`: however they are spaced, the content is the same.
fn content_hash(text: &str) -> u128 {
    let mut words = String::with_capacity(text.len() + 1);
    for word in text.split_whitespace() {
        words.push_str(word);
        words.push(' ');
    }
    let hash = blake3::hash(words.as_bytes());
    hash.as_bytes().iter().take(16).fold(0, |bits, &byte| bits << 8 | u128::from(byte))
}

/// Whether a document is held out: the hash as a fraction of its range.
fn is_held_out(hash: u128, holdout: f64) -> bool {
    ((hash >> 75) as f64) * (-53f64).exp2() < holdout
}

#[cfg(test)]
mod tests;
