//! What a person names as data: `[NAME=]PATH[:FIELD]`, where a path is a file or a folder of files.

use super::{Documents, Input, Separator, kind_of, known_endings, open};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Files that belong together under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name, fit for a folder.
    pub name: String,
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
        Ok(Self { name, files })
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
        let files = self.files.clone().into_iter();
        let documents = files.flat_map(move |(path, field)| -> Documents {
            let input = Input { path: &path, field: field.as_deref(), separator };
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

/// The file, or the files of the folder that have a known kind, sorted by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let status = path.metadata().map_err(|error| Error::io(path, "open", error))?;
    if !status.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| Error::io(path, "list", error))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(|error| Error::io(path, "list", error))?.path());
    }
    files.retain(|file| file.is_file() && kind_of(file).is_some());
    files.sort();
    if files.is_empty() {
        let expected = format!("files ending in {}", known_endings());
        return Err(Error::malformed(path, "", expected, "none (subfolders are not entered)"));
    }
    Ok(files)
}
