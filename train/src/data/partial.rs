//! A folder that appears only when it is whole: written beside its place under another name, renamed at the end.
//!
//! Dropped before that, it removes itself. What belongs into it is the caller's business.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A folder in the making.
pub(super) struct Partial {
    place: PathBuf, // where it shall appear
    path: PathBuf,  // where it is made
    is_placed: bool,
}

impl Partial {
    /// Begins a folder that shall stand at `place`. What stands there already must be an empty folder or, with
    /// `force`, one that holds the file `mark`: nobody's photographs are replaced.
    pub(super) fn begin(place: &Path, force: bool, mark: &str) -> Result<Self> {
        let is_taken =
            std::fs::read_dir(place).map_or(place.exists(), |mut entries| entries.next().is_some());
        if is_taken && !force {
            return Err(Error::exists(place));
        }
        if is_taken && !place.join(mark).is_file() {
            let expected = format!("a folder with {mark}, or none");
            return Err(Error::malformed(
                place,
                "--force",
                expected,
                "something that did not come from here",
            ));
        }
        let path = beside(place, "partial");
        remove(&path)?;
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, "create", error))?;
        Ok(Self { place: place.to_owned(), path, is_placed: false })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the finished folder into its place.
    pub(super) fn place(mut self) -> Result<()> {
        let old = beside(&self.place, "replaced");
        remove(&old)?;
        if self.place.exists() {
            std::fs::rename(&self.place, &old).map_err(|error| Error::io(&self.place, "replace", error))?;
        }
        std::fs::rename(&self.path, &self.place).map_err(|error| Error::io(&self.place, "create", error))?;
        self.is_placed = true;
        remove(&old)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn beside(place: &Path, ending: &str) -> PathBuf {
    let name = place.file_name().unwrap_or("data".as_ref()).to_string_lossy();
    place.with_file_name(format!("{name}.{ending}"))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "remove", error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let place = parent.path().join("out");
        let begin = |force| Partial::begin(&place, force, "mark");
        drop(begin(false).unwrap());
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        let partial = begin(false).unwrap();
        std::fs::write(partial.path().join("mark"), "1").unwrap();
        partial.place().unwrap();
        assert!(begin(false).err().unwrap().to_string().contains("--force"));
        begin(true).unwrap().place().unwrap();
        assert!(!place.join("mark").exists());
        std::fs::write(place.join("photograph"), "x").unwrap();
        assert!(begin(true).err().unwrap().to_string().contains("did not come from here"));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
