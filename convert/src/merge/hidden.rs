//! A folder that is whole or not there: made beside its target under a hidden name, locked until it gets its own. What a
//! killed merge left is not locked, and the next merge beside it removes it; what was killed before it had a lock is
//! empty, and goes after a minute.

use moewe_engine::os::room::report_file_limit;
use moewe_engine::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PREFIX: &str = ".moewe-merge-";
const LOCK: &str = "lock";
/// Between making a folder and locking it is far less time.
const UNLOCKED: Duration = Duration::from_secs(60);

/// A folder in the making.
pub(super) struct Hidden {
    _lock: File, // let go of before the folder is
    folder: TempDir,
    /// What it will be called.
    pub(super) out: PathBuf,
}

impl Hidden {
    /// A place for the folder `out`, gone when it is let go of without a name.
    ///
    /// # Errors
    /// Something is called so, or there is no place beside it.
    pub(super) fn create(out: &Path) -> Result<Self> {
        free(out)?;
        report_file_limit();
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        clear(parent);
        let broken = |e| Error::io(parent, "make a folder in", e);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(broken)?;
        let lock = File::create(folder.path().join(LOCK)).map_err(broken)?;
        // Where a file system has no locks, nothing is ever cleared there either.
        let _ = lock.try_lock();
        // One with everyone's rights in the one with ours.
        fs::create_dir(folder.path().join("whole")).map_err(broken)?;
        Ok(Self { _lock: lock, folder, out: out.to_owned() })
    }

    /// Where a file of it is for now.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("whole").join(name)
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// The disk is full.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.path(name), bytes).map_err(|e| Error::io(self.out.join(name), "write", e))
    }

    /// Gives the folder its name, unless that is taken.
    ///
    /// # Errors
    /// It is.
    pub(super) fn publish(self) -> Result<()> {
        free(&self.out)?;
        fs::rename(self.folder.path().join("whole"), &self.out)
            .map_err(|e| Error::io(&self.out, "rename the folder to", e))
    }
}

/// Whether nothing is called so; only an empty folder may be replaced.
fn free(out: &Path) -> Result<()> {
    let is_empty = |out: &Path| fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    match fs::symlink_metadata(out) {
        Err(_) => Ok(()),
        Ok(about) if about.is_dir() && is_empty(out) => Ok(()),
        Ok(_) => Err(Error::request(format!("{} exists; name another folder", out.display()))),
    }
}

/// Removes what merges left that nobody holds any more.
fn clear(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        match File::open(entry.path().join(LOCK)) {
            Ok(lock) if lock.try_lock().is_ok() => _ = fs::remove_dir_all(entry.path()),
            Ok(_) => {}
            // Only an empty folder goes this way.
            Err(_) if is_old(&entry) => _ = fs::remove_dir(entry.path()),
            Err(_) => {}
        }
    }
}

fn is_old(entry: &fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|about| about.modified());
    changed.ok().and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age > UNLOCKED)
}
