//! The one error type of the engine and of the converter.
//!
//! An error names the file, the place in it (key, tensor, byte), what was expected and what was found,
//! and where possible what to do. It never carries a backtrace: these are messages for the person at the keyboard.

use std::path::{Path, PathBuf};

/// Result with the engine's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with files, models and requests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted: "open", "read 4096 bytes at 32", "write".
        action: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file breaks a rule of its format.
    #[error("{file}{place}expected {expected}, found {found}", file = prefix(file), place = prefix(place))]
    Malformed {
        /// The file, empty until the caller that knows it adds it with [`Error::in_file`].
        file: String,
        /// Key, tensor or byte position.
        place: String,
        /// The rule.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The file is sound but asks for something that does not exist here.
    #[error("{file}{what}; {hint}", file = prefix(file))]
    Unsupported {
        /// The file, may be empty.
        file: String,
        /// What is not supported.
        what: String,
        /// What is supported or what to do.
        hint: String,
    },
    /// The weights of a routed expert cannot be read.
    #[error("expert {expert} of layer {layer} cannot be read; check the disk, then ask again: {source}")]
    Expert {
        /// Counted from 0.
        layer: usize,
        /// Counted from 0.
        expert: u32,
        /// File, place and reason.
        source: Box<Error>,
    },
    /// A request that cannot be met: a flag, a token id, a length.
    #[error("{0}")]
    Request(String),
    /// All pages of the cache are in use.
    #[error("the cache has no room for further positions: all of its {0} pages are in use")]
    PoolFull(usize),
    /// The person or the program asked to stop.
    #[error("stopped")]
    Stopped,
}

fn prefix(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}: ") }
}

impl Error {
    /// An I/O failure of `action` on `path`.
    pub fn io(path: impl AsRef<Path>, action: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), action: action.into(), source }
    }

    /// A broken rule at `place`, the file still unnamed.
    pub fn malformed(place: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Malformed {
            file: String::new(),
            place: place.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// Something this program does not do.
    pub fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported { file: String::new(), what: what.into(), hint: hint.into() }
    }

    /// A request that cannot be met.
    pub fn request(message: impl Into<String>) -> Self {
        Self::Request(message.into())
    }

    /// Adds the file's name where the error does not have one yet.
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        if let Self::Malformed { file, .. } | Self::Unsupported { file, .. } = &mut self
            && file.is_empty()
        {
            *file = path.as_ref().display().to_string();
        }
        self
    }
}
