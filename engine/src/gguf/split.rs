//! Models in several files, `NAME-00001-of-0000N.gguf`: finds the siblings and checks that they belong together.
//!
//! Source of the keys and the naming: llama.cpp's gguf-split. Metadata comes from the first part alone.

use super::metadata::Metadata;
use super::part::Part;
use super::quoted;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";
const MAX_PARTS: u64 = 99_999; // five digits

/// Number of parts a file claims to belong to; 1 for a whole model.
pub(super) fn count(metadata: &Metadata) -> Result<u64> {
    let count = metadata.u64(COUNT_KEY)?.unwrap_or(1);
    if count > MAX_PARTS {
        return Err(Error::malformed(key(COUNT_KEY), format!("at most {MAX_PARTS}"), count));
    }
    Ok(count.max(1))
}

/// The first part and those after it.
pub(super) fn open_siblings(path: &Path, first: Part) -> Result<Vec<Part>> {
    let count = count(&first.metadata).map_err(|e| e.in_file(path))?;
    if count == 1 {
        return Ok(vec![first]);
    }
    let names = Names::of(path, count).map_err(|e| e.in_file(path))?;
    let number = first.metadata.require_u64(NUMBER_KEY).map_err(|e| e.in_file(path))?;
    if number != 0 {
        let hint = format!("open the first one, {}", names.part(1).display());
        return Err(Error::unsupported(
            format!("part {} of {count} of a split model", number.saturating_add(1)),
            hint,
        )
        .in_file(path));
    }
    let expected_tensors = first.metadata.u64(TENSORS_KEY).map_err(|e| e.in_file(path))?;
    let mut parts = vec![first];
    for number in 1..count {
        parts.push(open_sibling(&names.part(number + 1), number, count)?);
    }
    let found = parts.iter().map(|part| part.tensors.len() as u64).sum::<u64>();
    match expected_tensors {
        Some(expected) if expected != found => {
            Err(Error::malformed(key(TENSORS_KEY), format!("{found} tensors in {count} files"), expected)
                .in_file(path))
        }
        _ => Ok(parts),
    }
}

fn open_sibling(path: &Path, number: u64, count: u64) -> Result<Part> {
    let part = Part::open(path)?;
    for (name, expected) in [(NUMBER_KEY, number), (COUNT_KEY, count)] {
        let found = part.metadata.require_u64(name).map_err(|e| e.in_file(path))?;
        if found != expected {
            return Err(Error::malformed(key(name), expected.to_string(), found).in_file(path));
        }
    }
    Ok(part)
}

fn key(name: &str) -> String {
    format!("key {}", quoted(name))
}

/// How the files of one split model are called.
struct Names {
    folder: PathBuf,
    stem: String, // before "-00001-of-00003.gguf"
    count: u64,
}

impl Names {
    fn of(path: &Path, count: u64) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = format!("-of-{count:05}.gguf");
        let stem =
            name.strip_suffix(&ending).and_then(|rest| rest.rsplit_once('-')).and_then(|(stem, digits)| {
                (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| stem.to_owned())
            });
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        stem.map(|stem| Self { folder, stem, count }).ok_or_else(|| {
            let expected = format!("a name ending in -00001{ending} for a part of a split model");
            Error::malformed("file name", expected, quoted(name))
        })
    }

    /// Counted from 1.
    fn part(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count))
    }
}
