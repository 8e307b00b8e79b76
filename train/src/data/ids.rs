//! One pass over all shards before a training: an id that the vocabulary lacks is found in minutes, not after days.
//!
//! What was found is kept in the run's folder, so that going on does not read everything again: it holds for files of
//! the same length and time. Ids are checked once more when a row is read, as files may change meanwhile.

use super::mixture::Dataset;
use super::npy::Header;
use super::shards::{beyond, decode};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

const CHUNK: usize = 1 << 20; // bytes read at a time, a multiple of every integer's

/// How far the pass has come, for a person who watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes there are to read.
    pub of: u64,
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        write!(f, "checking the ids of the data: {:.1} of {:.1} GB", gb(self.bytes), gb(self.of))
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified: u64,  // nanoseconds since 1970
    ids_below: u64, // one more than the highest
}

/// Reads every id of `datasets` that `cache`, a file, does not know already.
///
/// # Errors
/// The first id that the vocabulary lacks, with its place; files that cannot be read; `stop` was raised.
pub fn check(
    datasets: &[&Dataset],
    cache: &Path,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Reading),
) -> Result<()> {
    // A cache that is missing or broken knows nothing.
    let text = std::fs::read(cache).unwrap_or_default();
    let old: BTreeMap<String, Known> = serde_json::from_slice(&text).unwrap_or_default();
    let mut new = BTreeMap::new();
    let mut unknown = BTreeMap::new();
    for dataset in datasets {
        for (path, header) in dataset.files() {
            let (name, found) = (path.display().to_string(), stamp(path)?);
            let is_known = |known: &&Known| {
                (known.bytes, known.modified) == found && known.ids_below <= dataset.vocabulary() as u64
            };
            match old.get(&name).filter(is_known) {
                Some(&known) => drop(new.insert(name, known)),
                None => drop(unknown.insert(name, (path, header, dataset.vocabulary(), found))),
            }
        }
    }
    let mut reading = Reading { bytes: 0, of: unknown.values().map(|(.., (bytes, _))| bytes).sum() };
    let mut progress = |bytes: usize| {
        reading.bytes += bytes as u64;
        report(&reading);
        if stop.load(Ordering::Relaxed) { Err(moewe_engine::Error::Stopped.into()) } else { Ok(()) }
    };
    for (name, (path, header, vocabulary, (bytes, modified))) in unknown {
        let ids_below = highest(path, header, vocabulary, &mut progress)?;
        new.insert(name, Known { bytes, modified, ids_below });
    }
    if new != old {
        remember(&new, cache);
    }
    Ok(())
}

/// Length and time of a file.
fn stamp(path: &Path) -> Result<(u64, u64)> {
    let metadata = path.metadata().map_err(|error| Error::io(path, "look at", error))?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), modified.unwrap_or_default().as_nanos() as u64))
}

/// One more than the highest id of a shard.
fn highest(
    path: &Path,
    header: &Header,
    vocabulary: usize,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<u64> {
    let failed = |error| Error::io(path, "read", error);
    let mut file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
    file.seek(SeekFrom::Start(header.offset as u64)).map_err(failed)?;
    let width = header.dtype.bytes();
    let (mut bytes, mut ids) = (vec![0; CHUNK], vec![0; CHUNK / width]);
    let (mut left, mut done, mut below) = (header.rows * header.columns as u64, 0, 0);
    while left > 0 {
        let count = left.min(ids.len() as u64) as usize;
        let (bytes, ids) = (&mut bytes[..count * width], &mut ids[..count]);
        file.read_exact(bytes).map_err(failed)?;
        if let Some((at, id)) = decode(header.dtype, bytes, vocabulary, ids) {
            return Err(beyond(path, header, vocabulary, (done + at as u64, id)));
        }
        below = ids.iter().map(|&id| u64::from(id) + 1).fold(below, u64::max);
        (left, done) = (left - count as u64, done + count as u64);
        progress(bytes.len())?;
    }
    Ok(below)
}

/// Keeps what was found. A failure costs the next start the time of a pass, no more.
fn remember(known: &BTreeMap<String, Known>, cache: &Path) {
    let partial = cache.with_extension("json.partial");
    let text = serde_json::to_vec_pretty(known).unwrap_or_default();
    let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, cache));
    if let Err(error) = written {
        tracing::warn!(
            "{}: cannot be written, the next start checks all ids again: {error}",
            cache.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::mixture::{SourceSpec, Split};
    use super::super::npy::Dtype;
    use super::super::shards::tests::write;
    use super::*;

    fn dataset(folder: &Path, vocabulary: usize) -> Dataset {
        let spec = SourceSpec { name: "x".to_owned(), folder: folder.to_owned(), weight: None };
        Dataset::open(&[spec], Split::Train, 3, vocabulary).unwrap()
    }

    /// The bytes that a pass reads.
    fn pass(folder: &Path, cache: &Path, vocabulary: usize) -> Result<u64> {
        let mut read = 0;
        let dataset = dataset(folder, vocabulary);
        check(&[&dataset, &dataset], cache, &AtomicBool::new(false), &mut |reading| read = reading.bytes)?;
        Ok(read)
    }

    #[test]
    fn every_shard_is_read_once_and_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("ids.json");
        // The last token of the last shard, which is held out, is the highest: 94.
        write(folder.path(), 0, Dtype::U16, 20, 4, 0);
        write(folder.path(), 1, Dtype::I64, 5, 3, 80);
        assert_eq!(pass(folder.path(), &cache, 95).unwrap(), 160 + 120);
        assert_eq!(pass(folder.path(), &cache, 95).unwrap(), 0, "nothing changed");
        assert_eq!(pass(folder.path(), &cache, 99).unwrap(), 0);
        let error = pass(folder.path(), &cache, 94).unwrap_err().to_string();
        assert!(error.contains("shard_00001.npy: row 4, column 2") && error.contains("found 94"), "{error}");
        write(folder.path(), 0, Dtype::U16, 20, 5, 0);
        let error = pass(folder.path(), &cache, 95).unwrap_err().to_string();
        assert!(error.contains("shard_00000.npy: row 19, column 0") && error.contains("found 95"), "{error}");
        std::fs::write(&cache, "{").unwrap();
        assert_eq!(pass(folder.path(), &cache, 100).unwrap(), 200 + 120, "a broken cache is none");
    }

    #[test]
    fn a_pass_can_be_stopped() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 0, Dtype::U16, 20, 4, 0);
        let dataset = dataset(folder.path(), 95);
        let stop = AtomicBool::new(true);
        let error = check(&[&dataset], &folder.path().join("c"), &stop, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "stopped");
    }
}
