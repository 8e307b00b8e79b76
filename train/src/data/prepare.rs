//! From corpora to a dataset: documents become token ids, are cut into rows and written as shards with a manifest.
//!
//! Which split a document belongs to is `holdout`'s to say. It has to know the lengths of all documents of a
//! source, so their ids wait in a file until the source is read. Training reads the result through [`super::mixture`].

use super::batches::Pass;
use super::corpus::{Separator, Source};
use super::encoder::Encoder;
use super::holdout::{Border, Document};
use super::manifest::{self, Counts, Entry, Manifest};
pub use super::npy::Dtype;
use super::partial::Partial;
use super::pieces::pieces;
use super::progress::{Progress, Report};
use super::shard_writer::{Cut, ShardWriter};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
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
    /// Share of the tokens that is held out for validation, 0 to 1.
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
        let mut packing = Packing::begin(settings, &encoder, cut, folder.path(), &source.name)?;
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
    cut: Cut,
    entry: Entry,
    documents: Vec<Document>,
    waiting: BufWriter<File>, // ids of all documents, as u32
    place: PathBuf,           // of that file
    folder: PathBuf,          // of the source
}

impl<'a> Packing<'a> {
    fn begin(settings: &Settings, encoder: &'a Encoder, cut: Cut, folder: &Path, name: &str) -> Result<Self> {
        let place = folder.join(".ids");
        let file = File::create(&place).map_err(|error| Error::io(&place, "create", error))?;
        Ok(Self {
            encoder,
            holdout: settings.holdout,
            deduplicate: settings.deduplicate,
            cut,
            entry: Entry { name: name.to_owned(), ..Entry::default() },
            documents: vec![],
            waiting: BufWriter::with_capacity(1 << 20, file),
            place,
            folder: folder.join(name),
        })
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
        let end = [self.encoder.eos()];
        let mut tokens = 0;
        for &id in ids.iter().flatten().chain(&end) {
            self.waiting
                .write_all(&id.to_le_bytes())
                .map_err(|error| Error::io(&self.place, "write", error))?;
            tokens += 1;
        }
        self.documents.push(Document { hash: (hash >> 64) as u64, tokens, bytes: text.len() as u32 });
        Ok(())
    }

    /// Parts what waits into what is trained on and what is held out.
    fn finish(mut self) -> Result<Entry> {
        let failed = |error| Error::io(&self.place, "read", error);
        self.waiting.flush().map_err(|error| Error::io(&self.place, "write", error))?;
        let mut waiting = BufReader::with_capacity(1 << 20, File::open(&self.place).map_err(failed)?);
        let border = Border::find(&self.documents, self.holdout, self.cut.context);
        let mut train = ShardWriter::new(self.folder.join("train"), self.cut);
        let mut valid = ShardWriter::new(self.folder.join("valid"), self.cut);
        let (mut bytes, mut ids) = (vec![], vec![]);
        for (number, document) in self.documents.iter().enumerate() {
            bytes.resize(4 * document.tokens as usize, 0);
            waiting.read_exact(&mut bytes).map_err(failed)?;
            ids.clear();
            ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)));
            let held_out = border.held_out(number, document);
            let (own, held) = ids.split_at(ids.len() - held_out);
            train.push(own)?;
            if held_out > 0 && !own.is_empty() {
                train.push(&[self.encoder.eos()])?; // the document that is cut ends here, too
            }
            valid.push(held)?;
            count(&mut self.entry, document, held_out as u64);
        }
        (self.entry.train.rows, self.entry.train.shards) = train.finish()?;
        (self.entry.valid.rows, self.entry.valid.shards) = valid.finish()?;
        std::fs::remove_file(&self.place).map_err(|error| Error::io(&self.place, "remove", error))?;
        Ok(self.entry)
    }
}

/// Counts a document of which so many tokens are held out. One that is cut is trained on, but for its end.
fn count(entry: &mut Entry, document: &Document, held_out: u64) {
    let (tokens, bytes) = (u64::from(document.tokens), u64::from(document.bytes));
    let held_bytes = bytes * held_out / tokens;
    let is_cut = held_out > 0 && held_out < tokens;
    let part = |documents: bool, bytes, tokens| Counts {
        documents: documents.into(),
        bytes,
        tokens,
        ..Counts::default()
    };
    entry.train.add(&part(held_out < tokens, bytes - held_bytes, tokens - held_out + u64::from(is_cut)));
    entry.valid.add(&part(held_out == tokens, held_bytes, held_out));
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

#[cfg(test)]
mod tests;
