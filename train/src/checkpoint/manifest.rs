//! `manifest.json`: what belongs to a checkpoint, with lengths and hashes, and whether it is all there.

use super::{sync_file, sync_folder};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path};

const NAME: &str = "manifest.json";

/// The contents of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Finished optimizer steps.
    pub step: u64,
    /// Files by their path in the folder, parts joined by `/`.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file of a checkpoint.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Length.
    pub bytes: u64,
    /// BLAKE3 of the contents in hexadecimal digits.
    pub blake3: String,
}

/// Flushes every file in `folder` to disk and writes the manifest beside them.
pub(super) fn seal(folder: &Path, step: u64) -> Result<()> {
    let mut manifest = Manifest { step, files: BTreeMap::new() };
    for name in files(folder)?.into_iter().filter(|name| name != NAME) {
        let path = folder.join(&name);
        sync_file(&path)?;
        manifest.files.insert(name, entry(&path)?);
    }
    let path = folder.join(NAME);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::io(&path, "write", e.into()))?;
    std::fs::write(&path, text).map_err(|e| Error::io(&path, "write", e))?;
    sync_file(&path)?;
    sync_folder(folder)
}

/// Whether `folder` is meant to be a checkpoint.
pub(crate) fn is_in(folder: &Path) -> bool {
    folder.join(NAME).exists()
}

/// The manifest of a checkpoint whose files are all as they were written.
///
/// # Errors
/// The first thing that is missing, cut short or changed.
pub fn verify(folder: &Path) -> Result<Manifest> {
    let path = folder.join(NAME);
    let text = std::fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| Error::malformed(&path, "", "a manifest with `step` and `files`", e))?;
    for (name, expected) in &manifest.files {
        check(folder, name, expected)?;
    }
    Ok(manifest)
}

fn check(folder: &Path, name: &str, expected: &FileEntry) -> Result<()> {
    let path = folder.join(name);
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::malformed(folder.join(NAME), name, "a path inside the checkpoint", "one outside"));
    }
    let bytes = path.metadata().map_err(|e| Error::io(&path, "find", e))?.len();
    if bytes != expected.bytes {
        let wanted = format!("{} bytes", expected.bytes);
        return Err(Error::malformed(&path, "length", wanted, format!("{bytes} bytes")));
    }
    let found = entry(&path)?;
    if found != *expected {
        return Err(Error::malformed(&path, "BLAKE3", &expected.blake3, found.blake3));
    }
    Ok(())
}

fn entry(path: &Path) -> Result<FileEntry> {
    let read = |e| Error::io(path, "read", e);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(read)?).map_err(read)?;
    Ok(FileEntry { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
}

/// The files below `folder` by their path in it, parts joined by `/`.
pub(super) fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    collect(folder, "", &mut names)?;
    Ok(names)
}

fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let list = |e| Error::io(folder, "list", e);
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::malformed(folder, "", "file names in UTF-8", format!("{:?}", entry.path())));
        };
        match entry.path().is_dir() {
            true => collect(&entry.path(), &format!("{prefix}{name}/"), names)?,
            false => names.push(format!("{prefix}{name}")),
        }
    }
    Ok(())
}
