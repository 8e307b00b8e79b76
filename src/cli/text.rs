//! Texts that commands work on: given as they are, from a file, or from stdin, for which `-` stands.

use anyhow::{Context, Result};
use moewe_engine::os::link;
use std::io::stdin;
use std::path::Path;

/// What was given, or all of stdin in place of `-` or nothing.
pub(crate) fn given_or_stdin(text: Option<&str>) -> Result<String> {
    match text {
        None | Some("-") => std::io::read_to_string(stdin()).context("cannot read the text from stdin"),
        Some(text) => Ok(text.to_owned()),
    }
}

/// A text file; bytes that are not UTF-8 are replaced, since they are part of many corpora.
pub(crate) fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return given_or_stdin(None);
    }
    let bytes = std::fs::read(path)
        .map_err(|error| link::explain(path, error))
        .with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
