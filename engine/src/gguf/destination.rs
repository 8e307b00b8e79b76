//! A file that appears only when it is complete: written beside its target under a temporary name, then renamed.
//!
//! Dropping it unpublished removes the temporary file. Whether an existing target may be replaced is the caller's
//! question to ask before.

use crate::error::{Error, Result};
use crate::os::room;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const BUFFER: usize = 1 << 20;

/// A file in the making.
#[derive(Debug)]
pub struct Destination {
    out: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Destination {
    /// Creates the temporary file beside `target`.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        let Some(name) = target.file_name() else {
            return Err(Error::request(format!("{} is not a file name", target.display())));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let temporary = target.with_file_name(hidden);
        room::report_file_limit();
        let file = File::create(&temporary).map_err(|e| Error::io(&temporary, "create", e))?;
        let out = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { out, temporary, target: target.to_owned(), published: false })
    }

    /// Makes sure of room for `len` bytes in all.
    ///
    /// # Errors
    /// The disk is full, or a file may not be so large.
    pub fn reserve(&self, len: u64) -> Result<()> {
        let action = || format!("make room for {len} bytes");
        room::reserve(self.out.get_ref(), len).map_err(|e| Error::io(&self.target, action(), e))
    }

    /// Writes everything to the disk and gives the file its name, replacing what had it.
    pub fn publish(mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io(&self.target, "write", e))?;
        self.out.get_ref().sync_all().map_err(|e| Error::io(&self.target, "write to the disk", e))?;
        fs::rename(&self.temporary, &self.target).map_err(|e| Error::io(&self.target, "rename", e))?;
        self.published = true;
        sync_folder(&self.target);
        Ok(())
    }
}

/// Makes the rename durable where the system can; the file itself already is.
fn sync_folder(_target: &Path) {
    #[cfg(unix)]
    if let Some(folder) = _target.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
