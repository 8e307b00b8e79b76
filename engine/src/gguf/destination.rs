//! A file that appears only when it is complete: written beside its target under a hidden name, then renamed.
//!
//! A hidden file is locked as long as its writer lives. So a second writer of the same target is told, and what a killed
//! one left is cleared by the next. Dropping a destination unpublished removes the hidden file. What is no regular file
//! is never replaced, whatever was asked for. Errors name the target.

use crate::error::{Error, Result};
use crate::os::{files, room};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempPath};

const BUFFER: usize = 1 << 20;
/// A hidden file is called `.TARGET.moewe-XXXXXX.part`, where the letters and digits are random.
const MARK: &str = ".moewe-";
const RANDOM: usize = 6;
const SUFFIX: &str = ".part";
/// Bytes of a file's name that its hidden file can repeat; systems allow 255 in all.
const LONGEST_NAME: usize = 220;
/// How often another process may take our new file for an orphan, between its making and its lock.
const ATTEMPTS: usize = 16;

/// What happens to a file that has the target's name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and its being there is an error.
    Keep,
    /// It is replaced at the end, by one rename.
    Replace,
}

/// A file in the making.
#[derive(Debug)]
pub struct Destination {
    out: BufWriter<Out>,
    target: PathBuf, // as it was given, for messages
    file: PathBuf,   // behind links
    existing: Existing,
}

#[derive(Debug)]
enum Out {
    Hidden(NamedTempFile),
    Stream(File),
}

/// What a target is before anything is written.
enum Place {
    File(PathBuf), // behind links
    Stream,
}

/// A whole file under its hidden name, which is removed when this is dropped.
#[derive(Debug)]
pub struct Hidden {
    path: TempPath,
    _file: File, // holds the lock
}

impl Destination {
    /// Begins a file that will be called `target`.
    ///
    /// # Errors
    /// `target` exists and is kept, is no regular file or a link to nothing, is being written by another process, or
    /// nothing can be written there.
    pub fn create(target: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        let target = target.as_ref();
        match place(target, existing)? {
            Place::File(file) => Self::hidden(target, file, existing),
            Place::Stream => Err(not_regular(target)),
        }
    }

    /// The same for what is read front to back: a pipe or a terminal is written through.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn stream(target: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        let target = target.as_ref();
        match place(target, existing)? {
            Place::File(file) => Self::hidden(target, file, existing),
            Place::Stream => {
                let opened = OpenOptions::new().write(true).open(target);
                let out = Out::Stream(opened.map_err(|e| Error::io(target, "open", e))?);
                Ok(Self::over(out, target, target.to_owned(), existing))
            }
        }
    }

    /// Whether [`stream`](Self::stream) would do, for those who write after long work.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn check(target: impl AsRef<Path>, existing: Existing) -> Result<()> {
        let target = target.as_ref();
        match place(target, existing)? {
            Place::File(file) => Self::hidden(target, file, existing).map(drop),
            Place::Stream => Ok(()),
        }
    }

    fn hidden(target: &Path, file: PathBuf, existing: Existing) -> Result<Self> {
        room::report_file_limit();
        if is_being_written(&file) {
            let busy = "is being written by another process; wait for it or name another file";
            return Err(refused(target, busy));
        }
        let out = Out::Hidden(hidden_beside(&file).map_err(|e| Error::io(target, "create", e))?);
        Ok(Self::over(out, target, file, existing))
    }

    fn over(out: Out, target: &Path, file: PathBuf, existing: Existing) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out), target: target.to_owned(), file, existing }
    }

    /// Another hidden file beside the same target, for what is needed only until that is written.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn scratch(&self) -> Result<Self> {
        let out =
            hidden_beside(&self.file).map_err(|e| Error::io(&self.target, "create a file beside it", e))?;
        Ok(Self::over(Out::Hidden(out), &self.target, self.file.clone(), self.existing))
    }

    /// What it will be called.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes sure of room for `len` bytes in all.
    ///
    /// # Errors
    /// The disk is full, or a file may not be so large.
    pub fn reserve(&self, len: u64) -> Result<()> {
        let action = || format!("make room for {len} bytes");
        match self.out.get_ref() {
            Out::Hidden(out) => {
                room::reserve(out.as_file(), len).map_err(|e| Error::io(&self.target, action(), e))
            }
            Out::Stream(_) => Ok(()),
        }
    }

    /// All that was written so far, where it can be read before it is published; `None` for a stream.
    ///
    /// # Errors
    /// When the rest cannot be written.
    pub fn unfinished(&mut self) -> Result<Option<&Path>> {
        let flushed = self.out.flush();
        flushed.map_err(|error| Error::io(&self.target, "write", error))?;
        match self.out.get_ref() {
            Out::Hidden(file) => Ok(Some(file.path())),
            Out::Stream(_) => Ok(None),
        }
    }

    /// Writes everything to the disk and gives the file its name.
    ///
    /// # Errors
    /// When the system cannot, or the name is taken meanwhile by what may not be replaced.
    pub fn publish(self) -> Result<()> {
        let Self { out, target, file, existing } = self;
        let out = out.into_inner().map_err(|e| Error::io(&target, "write", e.into_error()))?;
        let Out::Hidden(out) = out else { return Ok(()) };
        out.as_file().sync_all().map_err(|e| Error::io(&target, "write to the disk", e))?;
        rename(out, &target, &file, existing)?;
        sync_folder(&file);
        Ok(())
    }

    /// Writes everything and leaves the file under its hidden name, to be read until it is dropped.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn keep_hidden(self) -> Result<Hidden> {
        let out = self.out.into_inner().map_err(|e| Error::io(&self.target, "write", e.into_error()))?;
        let Out::Hidden(out) = out else { return Err(not_regular(&self.target)) };
        let (file, path) = out.into_parts();
        // Where an exclusive lock keeps readers away (Windows), a shared one does not. Without locks there are orphans.
        let _ = file.unlock().and_then(|()| file.lock_shared());
        Ok(Hidden { path, _file: file })
    }
}

impl Hidden {
    /// Its hidden name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What `target` is, if something may be written there.
fn place(target: &Path, existing: Existing) -> Result<Place> {
    if target.is_dir() || target.to_string_lossy().ends_with(std::path::is_separator) {
        return Err(refused(target, "is a folder; name a file in it"));
    }
    if target.file_name().is_none() {
        return Err(refused(target, "is not a file name"));
    }
    let io = |e| Error::io(target, "open", e);
    let own = match fs::symlink_metadata(target) {
        Ok(own) => own,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Place::File(target.to_owned())),
        Err(e) => return Err(io(e)),
    };
    match fs::metadata(target) {
        Err(e) if own.is_symlink() && e.kind() == ErrorKind::NotFound => {
            Err(refused(target, "is a link to nothing; remove it or name another file"))
        }
        Err(e) => Err(io(e)),
        Ok(what) if what.is_file() => match existing {
            Existing::Keep => Err(refused(target, "exists; --force replaces it")),
            Existing::Replace => Ok(Place::File(fs::canonicalize(target).map_err(io)?)),
        },
        Ok(what) if files::is_stream(what.file_type()) => Ok(Place::Stream),
        Ok(_) => Err(not_regular(target)),
    }
}

fn refused(target: &Path, why: &str) -> Error {
    Error::request(format!("{} {why}", target.display()))
}

fn not_regular(target: &Path) -> Error {
    refused(target, "is a pipe or a device, which a file cannot replace; name a regular file")
}

/// The folder of a file, and how the names of its hidden files begin.
fn beside(file: &Path) -> (&Path, OsString) {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default();
    let mut prefix = OsString::from(".");
    // What is added must fit as well; a long name is told apart by its length and its beginning.
    match name.to_string_lossy().char_indices().nth(LONGEST_NAME / 4) {
        Some((end, _)) if name.len() > LONGEST_NAME => {
            prefix.push(format!("{}-{}", &name.to_string_lossy()[..end], name.len()));
        }
        _ => prefix.push(name),
    }
    prefix.push(MARK);
    (folder, prefix)
}

/// A new hidden file, locked.
fn hidden_beside(file: &Path) -> io::Result<NamedTempFile> {
    let (folder, prefix) = beside(file);
    for _ in 0..ATTEMPTS {
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).rand_bytes(RANDOM).suffix(SUFFIX);
        let made = builder.make_in(folder, |path| {
            let file = File::create_new(path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => Err(ErrorKind::AlreadyExists.into()),
                // A file system without locks has no orphans that could be told from files at work.
                Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
            }
        })?;
        // Whoever clears orphans does it under their lock: a file that is still there now stays.
        if made.path().exists() {
            return Ok(made);
        }
    }
    Err(io::Error::other("its unfinished file is removed again and again"))
}

/// Whether another writer of the file is alive. What dead ones left is removed.
fn is_being_written(file: &Path) -> bool {
    let (folder, prefix) = beside(file);
    let (mut is_busy, entries) = (false, fs::read_dir(folder));
    for entry in entries.into_iter().flatten().flatten() {
        let is_file = || entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_hidden(&entry.file_name(), &prefix) || !is_file() {
            continue;
        }
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => drop(fs::remove_file(entry.path())),
            Err(TryLockError::WouldBlock) => is_busy = true,
            Err(TryLockError::Error(_)) => {}
        }
    }
    is_busy
}

fn is_hidden(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    let random = rest.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

fn rename(out: NamedTempFile, target: &Path, file: &Path, existing: Existing) -> Result<()> {
    let io = |e| Error::io(target, "rename", e);
    if existing == Existing::Replace {
        // What has the name now may be something else than at the beginning.
        let Place::File(_) = place(target, existing)? else { return Err(not_regular(target)) };
        return out.persist(file).map(drop).map_err(|e| io(files::explain_rename(e.error)));
    }
    let error = match out.persist_noclobber(file) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if error.error.kind() == ErrorKind::AlreadyExists || fs::symlink_metadata(file).is_ok() {
        let taken = "exists now: another program wrote it meanwhile; nothing is replaced, --force would";
        return Err(refused(target, taken));
    }
    // Some file systems know neither a rename that replaces nothing nor a second link.
    error.file.persist(file).map(drop).map_err(|e| io(e.error))
}

/// Makes the rename durable where the system can; the file itself already is.
fn sync_folder(_file: &Path) {
    #[cfg(unix)]
    let _ = File::open(beside(_file).0).and_then(|folder| folder.sync_all());
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Hidden(out) => out.as_file_mut().write(bytes),
            Self::Stream(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Hidden(out) => out.as_file_mut().flush(),
            Self::Stream(out) => out.flush(),
        }
    }
}
