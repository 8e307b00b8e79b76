//! Finds out what a path holds, and opens it.

use crate::adapter::Merged;
use crate::checkpoint::Checkpoint;
use crate::from_checkpoint::FromCheckpoint;
use crate::from_gguf::FromGguf;
use crate::options::Options;
use crate::source::Source;
use moewe_engine::gguf::Gguf;
use moewe_engine::os::files::regular;
use moewe_engine::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};

/// An opened model.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) files: Files,
}

/// What was opened.
pub(crate) enum Files {
    Gguf(Box<Gguf>),
    Checkpoint(Box<Checkpoint>),
}

impl Opened {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let files = match is_gguf(path)? {
            true => Files::Gguf(Box::new(Gguf::open(path)?)),
            false => Files::Checkpoint(Box::new(Checkpoint::open(path)?)),
        };
        Ok(Self { path: path.to_owned(), files })
    }

    /// The model as it is converted.
    pub(crate) fn source(&self, options: &Options) -> Result<Box<dyn Source + '_>> {
        let source: Box<dyn Source + '_> = match &self.files {
            Files::Gguf(gguf) => Box::new(FromGguf::new(gguf)),
            Files::Checkpoint(checkpoint) => {
                Box::new(FromCheckpoint::new(checkpoint, &self.path, options.add_vocabulary_rows)?)
            }
        };
        Ok(match options.adapters.is_empty() {
            true => source,
            false => Box::new(Merged::new(source, &options.adapters)?),
        })
    }
}

/// Refuses to write over what is being read: a GGUF file or a part of it, and the files of a checkpoint.
pub(crate) fn refuse_source(src: &Path, out: &Path) -> Result<()> {
    let is_read = match out.is_file() {
        false => false,
        true if is_gguf(src)? => Gguf::open(src)?.is_read_from(out),
        true => {
            let folder = |path: &Path| {
                let own = path.parent().filter(|own| !own.as_os_str().is_empty());
                own.unwrap_or(Path::new(".")).canonicalize().ok()
            };
            let source = if src.is_dir() { src.canonicalize().ok() } else { folder(src) };
            source == folder(out) && out.extension().is_none_or(|extension| extension != "gguf")
        }
    };
    match is_read {
        true => Err(Error::request(format!("{} is part of the source; name another file", out.display()))),
        false => Ok(()),
    }
}

fn is_gguf(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    regular(path)?;
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut magic = [0; 4];
    Ok(file.read_exact(&mut magic).is_ok() && magic == moewe_engine::gguf::MAGIC)
}
