//! Corpora: documents, one after the other, from text, JSONL and Parquet files.
//!
//! A kind of file is one file here and one line in [`KINDS`], chosen by the file's name. One document is held at a
//! time, never a corpus; what a document means is the reader's business.

mod jsonl;
mod lines;
mod parquet;
mod source;
mod text;

pub(super) use lines::Lines;
pub use source::Source;

use crate::{Error, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The field or column that holds the text where a source names none.
pub const DEFAULT_FIELD: &str = "text";

/// Longest document; more is a file without the separator that was expected.
const LONGEST_DOCUMENT: usize = 256 << 20;

/// Documents in the order of their file.
pub type Documents = Box<dyn Iterator<Item = Result<String>> + Send>;

/// What ends a document in plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Separator {
    /// A blank line.
    #[default]
    BlankLine,
    /// Every line is a document.
    Line,
    /// The whole file is one document.
    File,
}

/// Lines of JSONL that are left out because they hold no document, counted.
#[derive(Debug, Default)]
pub struct BadLines {
    count: AtomicU64,
    first: OnceLock<String>,
}

impl BadLines {
    fn note(&self, error: &Error) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.first.get_or_init(|| error.to_string());
    }

    /// How many there were, and what was wrong with the first.
    pub fn found(&self) -> Option<(u64, &str)> {
        self.first.get().map(|first| (self.count.load(Ordering::Relaxed), first.as_str()))
    }
}

/// A file to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    path: &'a Path,
    field: Option<&'a str>,
    separator: Separator,                 // plain text only
    bad_lines: Option<&'a Arc<BadLines>>, // JSONL only; without, a bad line is an error
}

/// A kind of file that holds documents.
pub struct Kind {
    /// Endings of file names, without the dot.
    pub endings: &'static [&'static str],
    /// Whether `.gz` may follow.
    pub may_be_compressed: bool,
    open: fn(&Input) -> Result<Documents>,
}

/// All kinds.
pub static KINDS: &[Kind] = &[text::KIND, jsonl::KIND, parquet::KIND];

/// The kind that the name of `path` tells.
fn kind_of(path: &Path) -> Option<&'static Kind> {
    let name = path.file_name()?.to_str()?;
    let (name, is_compressed) = name.strip_suffix(".gz").map_or((name, false), |name| (name, true));
    let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
    let kind = KINDS.iter().find(|kind| kind.endings.contains(&ending.as_str()))?;
    (kind.may_be_compressed || !is_compressed).then_some(kind)
}

/// Endings a person may use, for messages and help.
fn known_endings() -> String {
    let names = KINDS.iter().flat_map(|kind| {
        kind.endings.iter().map(|ending| {
            if kind.may_be_compressed { format!(".{ending}[.gz]") } else { format!(".{ending}") }
        })
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The documents of one file.
fn open(input: &Input) -> Result<Documents> {
    match kind_of(input.path) {
        Some(kind) => (kind.open)(input),
        None => Err(Error::malformed(
            input.path,
            "name",
            format!("one of the endings {}", known_endings()),
            format!("{:?}", input.path.file_name().unwrap_or_default()),
        )),
    }
}

#[cfg(test)]
mod tests;
