//! Files of examples: JSONL, compressed or not, in batches of lines; what kind of lines a file has, its first one says.
//!
//! Lines are parsed apart from reading them, so that all cores can share that.

use super::super::corpus::Lines;
use super::example::Example;
use super::kinds::{self, Fields, Kind, kind_of};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

const BATCH_BYTES: usize = 16 << 20;
/// Endings of files that are taken from a folder.
const ENDINGS: [&str; 4] = [".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"];

/// The files that are named, and those of named folders in the order of their names.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let status = path.metadata().map_err(|error| Error::io(path, "open", error))?;
        if status.is_dir() { files.extend(in_folder(path)?) } else { files.push(path.clone()) }
    }
    if files.is_empty() { Err(Error::request("no data; name some with --data")) } else { Ok(files) }
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(folder, "list", error);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let all = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending)) && path.is_file()
    };
    let mut found: Vec<_> = all.map_err(failed)?.into_iter().filter(is_wanted).collect();
    if found.is_empty() {
        return Err(Error::malformed(folder, "", format!("files ending in {}", ENDINGS.join(", ")), "none"));
    }
    found.sort_unstable();
    Ok(found)
}

/// A file on its way.
pub(super) struct Reader {
    path: PathBuf,
    lines: Lines,
    number: u64, // of the line last read, from 1
    first: Option<First>,
}

/// What the first line says of all.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub kind: &'static Kind,
    pub unread: Vec<String>, // keys that nobody reads
    number: u64,
    keys: String, // in words
}

/// Lines that follow each other.
pub(super) struct Batch {
    pub lines: Vec<String>,
    pub first: First,
    start: u64, // number of the first of them
    path: PathBuf,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), lines: Lines::open(path)?, number: 0, first: None })
    }

    /// The next lines, at most so many that are not blank; `None` at the end.
    pub(super) fn read(&mut self, most: usize) -> Result<Option<Batch>> {
        let (start, mut lines, mut bytes, mut wanted) = (self.number + 1, Vec::new(), 0, most);
        while bytes < BATCH_BYTES && wanted > 0 {
            let Some(line) = self.lines.next()? else { break };
            let line = line.to_owned();
            self.number += 1;
            bytes += line.len() + 1;
            if !line.trim().is_empty() {
                wanted -= 1;
                if self.first.is_none() {
                    self.first = Some(first(&line, self.number).map_err(|wrong| self.malformed(wrong))?);
                }
            }
            lines.push(line);
        }
        // Without a first line there are only blank ones.
        let Some(first) = self.first.clone().filter(|_| !lines.is_empty()) else { return Ok(None) };
        Ok(Some(Batch { lines, first, start, path: self.path.clone() }))
    }

    fn malformed(&self, (expected, found): (String, String)) -> Error {
        Error::malformed(&self.path, format!("line {}", self.number), expected, found)
    }
}

/// What the first line says; or what was expected, and what was found.
fn first(line: &str, number: u64) -> Result<First, (String, String)> {
    let fields = match serde_json::from_str::<Fields>(line) {
        Ok(fields) => fields,
        Err(_) if line.trim_start().starts_with('[') => {
            let expected =
                "a JSON object on each line (`jq -c '.[]' FILE > FILE.jsonl` makes that of a list)";
            return Err((expected.to_owned(), "a list".to_owned()));
        }
        Err(error) => return Err(("a JSON object".to_owned(), error.to_string())),
    };
    let Some(kind) = kind_of(&fields) else { return Err((kinds::known(), kinds::keys(&fields))) };
    let unread = kinds::unread(kind, &fields);
    Ok(First { kind, unread, number, keys: kinds::keys(&fields) })
}

impl Batch {
    /// The lines that are not blank, by their numbers.
    pub(super) fn numbered(&self) -> Vec<(u64, &str)> {
        let numbered = self.lines.iter().zip(self.start..).map(|(line, number)| (number, line.as_str()));
        numbered.filter(|(_, line)| !line.trim().is_empty()).collect()
    }

    /// The example in a line.
    ///
    /// # Errors
    /// No JSON object, one of another kind than the first, or one that breaks the rules of its kind.
    pub(super) fn parse(&self, number: u64, line: &str) -> Result<Example> {
        let malformed =
            |expected, found| Error::malformed(&self.path, format!("line {number}"), expected, found);
        let fields: Fields = serde_json::from_str(line)
            .map_err(|error| malformed("a JSON object".to_owned(), error.to_string()))?;
        let First { kind, number: first, keys, .. } = &self.first;
        if kind_of(&fields).is_none_or(|found| found.name != kind.name) {
            let expected = format!("a line of kind {} as line {first} with {keys}", kind.name);
            return Err(malformed(expected, kinds::keys(&fields)));
        }
        (kind.read)(fields).map_err(|wrong| wrong.in_line(&self.path, number))
    }

    /// The error with the file and the line that it is about.
    pub(super) fn at(&self, number: u64, error: &Error) -> Error {
        Error::request(format!("{}: line {number}: {error}", self.path.display()))
    }
}
