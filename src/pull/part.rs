//! A file in the making: `NAME.part` with its bytes, `NAME.part.json` with what is known of them.
//!
//! The part is locked while somebody writes it. What is known is written anew every few mebibytes, by a rename, after
//! the bytes that it speaks of: a process that is killed loses no more than those since.

use super::digest::{Digest, Rolling};
use super::plan::Item;
use anyhow::{Context, Result, anyhow, bail};
use moewe_engine::os::files;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SAVE_EVERY: u64 = 4 << 20;
const COPY: u64 = 64 << 20; // copied between two looks at whether to stop
const LONGEST_STATE: u64 = 1 << 20;
const MOST_RANGES: usize = 10_000;

/// What is known of a part.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
struct Known {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    size: Option<u64>,
    digest: Option<String>,
    etag: Option<String>,
    done: Vec<Range<u64>>,
}

/// A file in the making.
pub(super) struct Part {
    file: File,
    target: PathBuf,
    path: PathBuf,
    known: Known,
    unsaved: u64,
    rolling: Option<Rolling>,
    wanted: Option<Digest>,
}

fn beside(target: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(ending);
    PathBuf::from(name)
}

/// Bytes of the file that an earlier pull has left.
pub(super) fn kept(target: &Path, item: &Item) -> u64 {
    let len = fs::metadata(beside(target, ".part")).map_or(0, |data| data.len());
    read(&beside(target, ".part.json"), item, len).map_or(0, |known| sum(&known.done))
}

/// What an earlier pull knew, if it was of the same file.
fn read(path: &Path, item: &Item, len: u64) -> Option<Known> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LONGEST_STATE).read_to_end(&mut text).ok()?;
    let known: Known = serde_json::from_slice(&text).ok()?;
    let end = item.size.or(known.size).unwrap_or(u64::MAX).min(len);
    let in_order = known.done.windows(2).all(|pair| pair[0].end < pair[1].start);
    let is_sound = in_order && known.done.iter().all(|range| range.start < range.end && range.end <= end);
    let same_size = item.size.is_none() || known.size == item.size;
    let is_same = match &item.digest {
        Some(digest) => known.digest.as_deref() == Some(&digest.to_string()),
        // Without a digest only the server can tell, by its etag.
        None => known.digest.is_none() && known.etag.is_some() && known.url == super::name::shown(&item.url),
    };
    (is_sound && same_size && is_same && known.done.len() <= MOST_RANGES).then_some(known)
}

fn sum(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

impl Part {
    /// Opens and locks the part of `target`, with what an earlier pull has left of the same file; nothing while another
    /// process has it.
    ///
    /// # Errors
    /// It cannot be created or locked.
    pub(super) fn open(target: &Path, item: &Item) -> Result<Option<Self>> {
        let path = beside(target, ".part");
        let cannot = |what: &str| format!("{}: cannot {what}", path.display());
        if path.is_symlink() {
            bail!("{} is a link, which is not written through; remove it", path.display());
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| cannot("create"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| cannot("lock")),
        }
        // Whoever had the lock may have published or removed the file since it was opened here.
        if !files::is_at(&file, &path) {
            return Ok(None);
        }
        let len = file.metadata().with_context(|| cannot("read"))?.len();
        let fresh = Known {
            url: super::name::shown(&item.url),
            commit: item.commit.clone(),
            size: item.size,
            digest: item.digest.as_ref().map(ToString::to_string),
            ..Known::default()
        };
        let known = read(&beside(target, ".part.json"), item, len).unwrap_or(fresh);
        let rolling = Some(Rolling::new(item.digest.as_ref(), item.size));
        let (target, wanted) = (target.to_owned(), item.digest.clone());
        let mut part = Self { file, target, path, known, unsaved: 0, rolling, wanted };
        if part.known.done.is_empty() {
            part.restart()?;
        }
        Ok(Some(part))
    }

    /// The file that it will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// How many bytes the whole file has, once that is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.known.size
    }

    /// What the server calls this version of the file.
    pub(super) fn etag(&self) -> Option<&str> {
        self.known.etag.as_deref()
    }

    /// Notes what the server says of the file.
    pub(super) fn learn(&mut self, size: Option<u64>, etag: Option<&str>) {
        self.known.size = self.known.size.or(size);
        if etag.is_some() {
            self.known.etag = etag.map(str::to_owned);
        }
    }

    /// Bytes that are here.
    pub(super) fn done(&self) -> u64 {
        sum(&self.known.done)
    }

    /// Bytes that are here of a range.
    pub(super) fn done_in(&self, within: &Range<u64>) -> u64 {
        let cut =
            |range: &Range<u64>| range.end.min(within.end).saturating_sub(range.start.max(within.start));
        self.known.done.iter().map(cut).sum()
    }

    /// The first bytes of a range that are not here.
    pub(super) fn missing_in(&self, within: &Range<u64>) -> Option<Range<u64>> {
        let within = within.start..within.end.min(self.known.size.unwrap_or(u64::MAX));
        let mut start = within.start;
        for range in &self.known.done {
            if range.start > start {
                return (start < within.end).then(|| start..range.start.min(within.end));
            }
            start = start.max(range.end);
        }
        (start < within.end).then_some(start..within.end)
    }

    /// All bytes that are not here, in ranges of at most `longest`; the first where nobody knows how many there are.
    pub(super) fn missing(&self, longest: u64) -> Vec<Range<u64>> {
        let (mut all, mut at) = (Vec::new(), 0);
        let most = if self.known.size.is_some() { usize::MAX } else { 1 };
        while all.len() < most
            && let Some(range) = self.missing_in(&(at..u64::MAX))
        {
            at = range.end.min(range.start.saturating_add(longest));
            all.push(range.start..at);
        }
        all
    }

    /// Bytes that have arrived.
    ///
    /// # Errors
    /// A full disk, with what is missing; what is here stays.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        if let Err(error) = written {
            let _ = self.save();
            return Err(self.explain(error));
        }
        if let Some(rolling) = &mut self.rolling {
            rolling.wrote(at, bytes);
        }
        self.note(at..at + bytes.len() as u64);
        self.unsaved += bytes.len() as u64;
        if self.unsaved >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Takes all bytes of another file in the place of what is here, by the file system's own means where it has some: then
    /// both share their blocks until one is changed.
    ///
    /// # Errors
    /// The other cannot be read, this one not written, or the person asks to stop.
    pub(super) fn take(&mut self, from: &mut File, stop: &AtomicBool, at: &dyn Fn(u64)) -> Result<()> {
        self.restart()?;
        let mut end = 0;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(moewe_engine::Error::Stopped.into());
            }
            let copied =
                io::copy(&mut from.take(COPY), &mut self.file).map_err(|error| self.explain(error))?;
            if copied == 0 {
                break;
            }
            end += copied;
            at(end);
        }
        // Only now: what a killed copy left is nothing to go on with.
        if end > 0 {
            self.note(0..end);
        }
        self.learn(Some(end), None);
        self.save()
    }

    fn explain(&self, error: io::Error) -> anyhow::Error {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        if !is_full.contains(&error.kind()) {
            return anyhow!(error).context(format!("{}: cannot write", self.path.display()));
        }
        let missing = self.known.size.unwrap_or(0).saturating_sub(self.done());
        anyhow!(
            "{}: no room for the rest, {missing} more bytes are needed ({error}); the part is kept, the same \
             command goes on",
            self.path.display()
        )
    }

    /// Adds a range to those that are here.
    fn note(&mut self, new: Range<u64>) {
        let done = &mut self.known.done;
        let first = done.partition_point(|range| range.end < new.start);
        let last = done.partition_point(|range| range.start <= new.end);
        let joined = match done.get(first..last) {
            Some([one, ..]) => one.start.min(new.start)..done[last - 1].end.max(new.end),
            _ => new,
        };
        done.splice(first..last, [joined]);
    }

    /// Writes down what is here.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&mut self) -> Result<()> {
        let (path, new) = (beside(&self.target, ".part.json"), beside(&self.target, ".part.json.new"));
        let text = serde_json::to_string(&self.known)?;
        let cannot = || format!("{}: cannot write", path.display());
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).with_context(cannot)?;
        self.unsaved = 0;
        Ok(())
    }

    /// Begins again with nothing.
    ///
    /// # Errors
    /// The file cannot be emptied.
    pub(super) fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.with_context(|| format!("{}: cannot write", self.path.display()))?;
        self.known.done.clear();
        self.known.etag = None;
        self.rolling = Some(Rolling::new(self.wanted.as_ref(), self.known.size));
        self.save()
    }

    /// The digest of what is here.
    ///
    /// # Errors
    /// It cannot be read, or the person asks to stop.
    pub(super) fn digest(&mut self, stop: &Arc<AtomicBool>) -> Result<Digest> {
        let fresh = || Rolling::new(self.wanted.as_ref(), self.known.size);
        self.rolling.take().unwrap_or_else(fresh).finish(&mut self.file, stop)
    }

    /// Refuses what is no GGUF file by its first bytes, before it gets a name that says it is one.
    ///
    /// # Errors
    /// The first bytes are others; the part is removed.
    pub(super) fn expect_gguf(&mut self) -> Result<()> {
        let mut start = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&self.file).take(4).read_to_end(&mut start)?;
        if start == b"GGUF" {
            return Ok(());
        }
        self.remove();
        let found = match start.as_slice() {
            [] => "an empty file".to_owned(),
            [b'<', ..] => "a web page".to_owned(),
            [b'{', ..] => "JSON".to_owned(),
            bytes => format!("a file that begins with {bytes:02x?}"),
        };
        bail!("{}: expected a GGUF file, found {found}; nothing is kept", self.target.display())
    }

    /// Removes what has arrived.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(beside(&self.target, ".part.json"));
        let _ = fs::remove_file(&self.path);
    }

    /// Gives the file its name, if nothing has that by now.
    ///
    /// # Errors
    /// Something has, or the disk fails.
    pub(super) fn publish(self) -> Result<()> {
        let cannot = |what: &str| format!("{}: cannot {what}", self.target.display());
        self.file.sync_all().with_context(|| cannot("write"))?;
        let part = tempfile::TempPath::try_from_path(&self.path)?;
        if let Err(failed) = part.persist_noclobber(&self.target) {
            let _ = failed.path.keep();
            return Err(failed.error).with_context(|| cannot("give the part its name"));
        }
        let _ = fs::remove_file(beside(&self.target, ".part.json"));
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // A part of nothing is no use to the next pull.
        if self.known.done.is_empty() && self.path.exists() && files::is_at(&self.file, &self.path) {
            self.remove();
        } else if self.unsaved > 0 && self.path.exists() {
            let _ = self.save();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(size: u64) -> Item {
        let url = "https://x.org/a.gguf".parse().unwrap();
        let digest = Some(Digest::sha256(&"a".repeat(64)).unwrap());
        Item { name: "a.gguf".into(), url, size: Some(size), digest, commit: None }
    }

    fn open(target: &Path, item: &Item) -> Part {
        Part::open(target, item).unwrap().unwrap()
    }

    #[test]
    fn ranges_join_and_what_is_missing_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = open(&folder.path().join("a.gguf"), &item(100));
        for at in [50, 0, 20, 10] {
            part.write(at, &[1; 10]).unwrap();
        }
        assert_eq!(part.known.done, [0..30, 50..60]);
        assert_eq!(part.missing(30), [30..50, 60..90, 90..100]);
        assert_eq!((part.done(), part.done_in(&(25..55))), (40, 10));
        assert_eq!(part.missing_in(&(0..40)), Some(30..40));
        assert_eq!(part.missing_in(&(5..25)), None);
        part.write(30, &[1; 20]).unwrap();
        part.write(60, &[1; 40]).unwrap();
        assert_eq!((part.known.done.len(), part.done()), (1, 100));
        assert!(part.missing(7).is_empty());
    }

    #[test]
    fn only_what_is_of_the_same_file_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.gguf");
        let mut part = open(&target, &item(100));
        assert!(Part::open(&target, &item(100)).unwrap().is_none());
        part.write(0, &[1; 10]).unwrap();
        drop(part);
        assert_eq!(kept(&target, &item(100)), 10);
        for other in [item(99), Item { digest: Digest::git(&"b".repeat(40)), ..item(100) }] {
            assert_eq!(kept(&target, &other), 0);
        }
        for state in
            ["", "{", r#"{"url":"","size":100,"digest":null,"etag":null,"done":[{"start":5,"end":2}]}"#]
        {
            fs::write(beside(&target, ".part.json"), state).unwrap();
            assert_eq!(kept(&target, &item(100)), 0, "{state}");
        }
        assert_eq!(open(&target, &item(100)).done(), 0);
    }
}
