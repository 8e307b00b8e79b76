//! The folder of a training's checkpoints: whatever moment the process is killed at, each is whole or not there.
//!
//! A checkpoint is written as `checkpoint-<step>.partial`, sealed with a manifest and renamed. A folder that has to
//! give way is first renamed to `.old`; [`Store::open`] finishes or undoes what a kill left between two renames.

use super::{manifest, sync_file, sync_folder};
use crate::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const BEST: &str = "best";
const LOCK: &str = ".lock";
const PARTIAL: &str = ".partial";
const OLD: &str = ".old";
const ASIDE: &str = ".aside";

/// The checkpoints of one training.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    keep_last: usize,      // at least 1
    last_saved: AtomicU64, // step; u64::MAX before the first save of this process
    lock: File,            // held as long as the store is open
}

/// A checkpoint whose files are all as they were written.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Finished optimizer steps.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Newer ones that were passed over, each with the reason.
    pub warnings: Vec<String>,
}

impl Store {
    /// Opens `folder` (made where it is missing) for one training alone and tidies what a killed one left.
    ///
    /// # Errors
    /// `keep_last` is 0, another process has the store open, or the folder cannot be written.
    pub fn open(folder: impl Into<PathBuf>, keep_last: usize) -> Result<Self> {
        let folder = folder.into();
        if keep_last == 0 {
            return Err(Error::request("the number of checkpoints to keep must be at least 1, found 0"));
        }
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
        let store = Self { lock: lock(&folder)?, folder, keep_last, last_saved: AtomicU64::new(u64::MAX) };
        store.tidy()?;
        Ok(store)
    }

    /// Lets `write` fill a folder and makes it the checkpoint of `step`, replacing one of the same step. Where
    /// anything fails, everything that was there before stays.
    ///
    /// # Errors
    /// What `write` says, or what the system says about the disk.
    pub fn save(&self, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.place(step);
        let partial = with_suffix(&place, PARTIAL);
        let written = fresh(&partial).and_then(|()| write(&partial));
        if let Err(error) = written.and_then(|()| manifest::seal(&partial, step)) {
            // The first error is the one to report; what cannot be removed now goes at the next start.
            let _ = fs::remove_dir_all(&partial);
            return Err(not_saved(error, step));
        }
        self.put(&partial, &place)?;
        self.last_saved.store(step, Ordering::Relaxed);
        Ok(place)
    }

    /// The newest checkpoint that verifies, as [`latest`] finds it. Damaged ones before it are set aside.
    ///
    /// # Errors
    /// As [`latest`], or a folder cannot be renamed.
    pub fn latest(&self) -> Result<Option<Found>> {
        let found = latest(&self.folder)?;
        let Some(step) = found.as_ref().map(|found| found.step) else { return Ok(None) };
        self.set_aside_after(step)?;
        Ok(found)
    }

    /// Renames the checkpoints after `step` to `checkpoint-<n>.aside`, for a training that goes on from an earlier
    /// one: else they would be taken for its newest. Nothing deletes them.
    ///
    /// # Errors
    /// A folder cannot be renamed.
    pub fn set_aside_after(&self, step: u64) -> Result<()> {
        for later in steps(&self.folder)?.into_iter().filter(|&later| later > step) {
            let aside = with_suffix(&self.place(later), ASIDE);
            remove_if_there(&aside)?;
            rename(&self.place(later), &aside)?;
        }
        sync_folder(&self.folder)
    }

    /// The checkpoint last marked as best, if it verifies.
    ///
    /// # Errors
    /// It is there but damaged.
    pub fn best(&self) -> Result<Option<Found>> {
        let path = self.folder.join(BEST);
        if !path.exists() {
            return Ok(None);
        }
        let step = manifest::verify(&path)?.step;
        Ok(Some(Found { step, path, warnings: vec![] }))
    }

    /// Makes `best/` this checkpoint. Its files are hard links (copies where the file system has none), so pruning
    /// the checkpoint later does not touch them.
    ///
    /// # Errors
    /// There is no checkpoint of this step, or the disk refuses; the previous best stays then.
    pub fn mark_best(&self, step: u64) -> Result<()> {
        let (source, place) = (self.place(step), self.folder.join(BEST));
        let partial = with_suffix(&place, PARTIAL);
        if let Err(error) = link_all(&source, &partial) {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        self.put(&partial, &place)
    }

    /// Removes all but the newest checkpoints, as many as the store keeps, and returns the removed steps. Those
    /// beyond the last save neither count nor go.
    ///
    /// # Errors
    /// A folder cannot be listed or removed.
    pub fn prune(&self) -> Result<Vec<u64>> {
        let last = self.last_saved.load(Ordering::Relaxed);
        let ours = steps(&self.folder)?.into_iter().filter(|&step| step <= last);
        let removed: Vec<u64> = ours.skip(self.keep_last).collect();
        for &step in &removed {
            self.remove(&self.place(step))?;
        }
        Ok(removed)
    }

    fn place(&self, step: u64) -> PathBuf {
        place(&self.folder, step)
    }

    /// Renames a finished folder into its place; one that stands there steps aside first.
    fn put(&self, partial: &Path, place: &Path) -> Result<()> {
        let old = with_suffix(place, OLD);
        if place.exists() {
            remove_if_there(&old)?;
            rename(place, &old)?;
        }
        rename(partial, place)?;
        sync_folder(&self.folder)?;
        remove_if_there(&old)
    }

    /// Removes a checkpoint by way of `.partial`, so that a kill in between leaves nothing that looks like one.
    fn remove(&self, place: &Path) -> Result<()> {
        let partial = with_suffix(place, PARTIAL);
        remove_if_there(&partial)?;
        rename(place, &partial)?;
        remove_if_there(&partial)
    }

    /// Ends what a kill interrupted: `.partial` goes; `.old` goes back where nothing has replaced it.
    fn tidy(&self) -> Result<()> {
        for name in names(&self.folder)? {
            let path = self.folder.join(&name);
            match name.strip_suffix(OLD).filter(|place| is_ours(place)).map(|place| self.folder.join(place)) {
                Some(place) if !place.exists() => rename(&path, &place)?,
                Some(_) => remove_if_there(&path)?,
                None if name.strip_suffix(PARTIAL).is_some_and(is_ours) => remove_if_there(&path)?,
                None => {}
            }
        }
        sync_folder(&self.folder)
    }
}

impl Drop for Store {
    /// Closing the file is not enough: a child process that was just started may hold it open for a moment longer.
    fn drop(&mut self) {
        // Where the file system knows no locks, there is none to give back.
        let _ = self.lock.unlock();
    }
}

/// The newest checkpoint in `folder` that verifies, damaged ones passed over; changes nothing and needs no lock, so
/// every rank and every other command may call it. `None` is a folder without checkpoints.
///
/// # Errors
/// The folder cannot be listed, or all its checkpoints are damaged: starting anew is then not for us to decide.
pub fn latest(folder: &Path) -> Result<Option<Found>> {
    let mut warnings = vec![];
    for step in steps(folder)? {
        let path = place(folder, step);
        match manifest::verify(&path) {
            Ok(manifest) if manifest.step == step => return Ok(Some(Found { step, path, warnings })),
            Ok(manifest) => {
                warnings.push(damaged(&path, format!("its manifest says step {}", manifest.step)))
            }
            Err(error) => warnings.push(damaged(&path, error)),
        }
    }
    match warnings.is_empty() {
        true => Ok(None),
        false => Err(Error::request(format!(
            "{}; no other is left: move them away to start anew",
            warnings.join("; ")
        ))),
    }
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> String {
    format!("checkpoint {} is damaged and passed over: {reason}", path.display())
}

/// Locks the folder against a second training. Where the file system knows no locks, there is none.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| Error::io(&path, "open", e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::request(format!(
            "{}: another training writes its checkpoints here; stop it or choose another folder",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{}: cannot be locked against a second training: {error}", path.display());
            Ok(file)
        }
        Ok(()) => Ok(file),
    }
}

/// Says what a failed save means for the training.
fn not_saved(error: Error, step: u64) -> Error {
    match error {
        Error::Common(moewe_engine::Error::Io { path, action, source }) => {
            let advice = format!("{action} (checkpoint {step} is not saved, earlier ones are untouched");
            let full = source.kind() == std::io::ErrorKind::StorageFull;
            let advice = advice + if full { "; free disk space or keep fewer checkpoints)" } else { ")" };
            Error::io(path, advice, source)
        }
        other => other,
    }
}

/// Steps of the folders that are called like checkpoints, newest first.
fn steps(folder: &Path) -> Result<Vec<u64>> {
    let names = names(folder)?;
    let mut steps: Vec<u64> = names.iter().filter_map(|name| step_of(name)).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

fn place(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoint-{step}"))
}

/// The step in a folder's name; only the digits that [`place`] writes, so that no two names are one step.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("checkpoint-")?.parse().ok()?;
    (name == format!("checkpoint-{step}")).then_some(step)
}

fn is_ours(name: &str) -> bool {
    name == BEST || step_of(name).is_some()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let list = |e| Error::io(folder, "list", e);
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(list)? {
        names.extend(entry.map_err(list)?.file_name().into_string().ok());
    }
    Ok(names)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn fresh(folder: &Path) -> Result<()> {
    remove_if_there(folder)?;
    fs::create_dir(folder).map_err(|e| Error::io(folder, "create", e))
}

fn remove_if_there(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder, "remove", error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io(from, format!("rename to {}", to.display()), e))
}

/// Links every file of a checkpoint into a new folder.
fn link_all(source: &Path, target: &Path) -> Result<()> {
    let names = manifest::files(source)?;
    fresh(target)?;
    names.iter().try_for_each(|name| link(&source.join(name), &target.join(name)))?;
    sync_folder(target)
}

fn link(source: &Path, target: &Path) -> Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
    }
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    fs::copy(source, target).map_err(|e| Error::io(target, format!("copy {}", source.display()), e))?;
    sync_file(target)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
