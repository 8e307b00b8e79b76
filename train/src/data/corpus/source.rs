//! What a person names as data: `[NAME=]PATH[:FIELD]`, where a path is a file or a folder of files.

use super::{BadLines, Documents, Input, Separator, kind_of, known_endings, open};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAMED: usize = 3; // files left out that are named, the others are counted
const DEEPEST: usize = 32; // folders in folders

/// Files that belong together under a name.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, fit for a folder.
    pub name: String,
    /// Where lines of JSONL without a document are counted and left out; without, they are errors.
    pub bad_lines: Option<Arc<BadLines>>,
    files: Vec<(PathBuf, Option<String>)>, // in reading order, with the field that holds the text
}

impl Source {
    /// Reads `[NAME=]PATH[:FIELD]`; without a name the file's or folder's own is taken, up to the first dot.
    ///
    /// # Errors
    /// A path that does not exist, a folder without known files, a name that is none for a folder.
    pub fn parse(argument: &str) -> Result<Self> {
        let (name, rest) = match argument.split_once('=') {
            Some((name, rest)) if !name.contains(['/', '\\']) => (Some(name), rest),
            _ => (None, argument),
        };
        let (path, field) = split_field(rest);
        let name = name.map_or_else(|| own_name(path), str::to_owned);
        check_name(&name, argument)?;
        let files = files(path)?.into_iter().map(|path| (path, field.map(str::to_owned))).collect();
        Ok(Self { name, bad_lines: None, files })
    }

    /// Reads several arguments; those of one name become one source, in the place of the first.
    ///
    /// # Errors
    /// As [`Source::parse`], and none at all.
    pub fn parse_all<'a>(arguments: impl IntoIterator<Item = &'a String>) -> Result<Vec<Self>> {
        let mut sources: Vec<Self> = Vec::new();
        for argument in arguments {
            let source = Self::parse(argument)?;
            match sources.iter_mut().find(|known| known.name == source.name) {
                Some(known) => known.files.extend(source.files),
                None => sources.push(source),
            }
        }
        if sources.is_empty() { Err(Error::request("no data; name some with --data")) } else { Ok(sources) }
    }

    /// All documents that hold more than white space, in order.
    pub fn documents(&self, separator: Separator) -> Documents {
        let (files, bad_lines) = (self.files.clone().into_iter(), self.bad_lines.clone());
        let documents = files.flat_map(move |(path, field)| -> Documents {
            let bad_lines = bad_lines.as_ref();
            let input = Input { path: &path, field: field.as_deref(), separator, bad_lines };
            open(&input).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        });
        Box::new(documents.filter(|document| document.as_ref().map_or(true, |text| !text.trim().is_empty())))
    }
}

/// Splits `PATH:FIELD`; a drive letter is no path, and a path that exists as it stands has no field.
fn split_field(argument: &str) -> (&Path, Option<&str>) {
    match argument.rsplit_once(':') {
        Some((path, field))
            if path.len() > 1 && !field.contains(['/', '\\']) && !Path::new(argument).exists() =>
        {
            (Path::new(path), Some(field))
        }
        _ => (Path::new(argument), None),
    }
}

fn own_name(path: &Path) -> String {
    let full = path.canonicalize();
    let name = full.as_deref().unwrap_or(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.split('.').next().unwrap_or_default();
    if path.is_dir() || stem.is_empty() { name } else { stem.to_owned() }
}

fn check_name(name: &str, argument: &str) -> Result<()> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(Error::request(format!(
        "{argument}: the name {name:?} cannot be a folder's; use letters, digits, - and _ as in NAME=PATH"
    )))
}

/// The file, or the files of the folder and of those in it that have a known kind, sorted by path. What is left out is
/// said.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let status = path.metadata().map_err(|error| Error::io(path, "open", error))?;
    if !status.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut files, mut left_out) = (vec![], vec![]);
    walk(path, DEEPEST, &mut files, &mut left_out)?;
    let left_out = listed(path, &left_out);
    if files.is_empty() {
        let expected = format!("files ending in {}", known_endings());
        return Err(Error::malformed(path, "", expected, left_out.unwrap_or_else(|| "none".to_owned())));
    }
    if let Some(left_out) = left_out {
        tracing::warn!("{}: {left_out} left out; endings that are read: {}", path.display(), known_endings());
    }
    Ok(files)
}

/// Sorts what is in a folder into files to read and what is left out: other kinds, hidden ones, and links to folders,
/// which may lead in a circle.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, left_out: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| Error::io(folder, "list", error);
    let entries = std::fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>();
    let mut entries = entries.map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden {
            left_out.push(path);
        } else if entry.file_type().map_err(failed)?.is_dir() && depth > 0 {
            walk(&path, depth - 1, files, left_out)?;
        } else if path.is_file() && kind_of(&path).is_some() {
            files.push(path);
        } else {
            left_out.push(path);
        }
    }
    Ok(())
}

/// The first of what was left out by name, the others by number.
fn listed(folder: &Path, left_out: &[PathBuf]) -> Option<String> {
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    let named = left_out.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", ");
    match left_out.len() {
        0 => None,
        count if count <= NAMED => Some(named),
        count => Some(format!("{named} and {} more", count - NAMED)),
    }
}
