//! Models that were converted on the way: a folder of GGUF files, each called by its checkpoint, its level and a key of
//! what it was made from. Beside each a small file says where that was.
//!
//! All of it can be made again, so it lies in the cache folder; only files of such names are ever removed.

mod key;

use super::consent::{self, Usual};
use super::{folders, output};
use anyhow::{Context, Result, bail};
use moewe_convert::checkpoint::Checkpoint;
use moewe_engine::gguf::{Destination, Existing};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const LONGEST_NAME: usize = 80; // characters of a checkpoint's name
const LONGEST_NOTE: u64 = 64 << 10;

/// A model in the folder.
pub(super) struct Converted {
    /// What to call it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Where it was converted from, if that is known.
    pub(super) source: Option<String>,
}

/// The place of a model before it is there.
pub(super) struct Slot {
    folder: PathBuf,
    ending: String,
}

impl Slot {
    /// Where this checkpoint has its place at this level.
    pub(super) fn of(checkpoint: &Checkpoint, level: &str) -> Result<Self> {
        let folder = folders::converted();
        let folder = folder.context("no folder for converted models: name one in $MOEWE_CACHE")?;
        Ok(Self { folder, ending: format!("-{level}-{}.gguf", key::key(checkpoint, level)?) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model, if it is there, whatever its checkpoint was called then.
    pub(super) fn filled(&self) -> Option<PathBuf> {
        let is_it =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&self.ending));
        all_in(&self.folder).into_iter().map(|found| found.path).find(|path| is_it(path))
    }

    /// The file to write for a checkpoint of this name.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        let name = name.trim_start_matches(['.', ' ']).chars().take(LONGEST_NAME);
        let name: String =
            name.map(|c| if c.is_control() || matches!(c, '/' | '\\') { '_' } else { c }).collect();
        let name = if name.is_empty() { "model" } else { &name };
        self.folder.join(format!("{name}{}", self.ending))
    }
}

/// Writes down where a model came from.
pub(super) fn remember(path: &Path, source: &str) -> Result<()> {
    let mut note = Destination::create(path.with_extension("json"), Existing::Replace)?;
    note.write_all(json!({ "source": source }).to_string().as_bytes())?;
    Ok(note.publish()?)
}

/// The model of this level that came from there.
pub(super) fn made_from(source: &str, level: &str) -> Option<PathBuf> {
    let is_level = |name: &str| name.rsplit('-').nth(1) == Some(level);
    let is_it = |model: &Converted| model.source.as_deref() == Some(source) && is_level(&model.name);
    all().into_iter().find(is_it).map(|model| model.path)
}

/// All converted models, by name.
pub(super) fn all() -> Vec<Converted> {
    folders::converted().map_or_else(Vec::new, |folder| all_in(&folder))
}

fn all_in(folder: &Path) -> Vec<Converted> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    // A link may lead anywhere; we write none.
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut found: Vec<Converted> = files
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?.to_owned();
            is_ours(&name).then(|| Converted { source: source(&path), name, path })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether a name is one that we give: `NAME-8bit-0123456789abcdef`.
fn is_ours(name: &str) -> bool {
    let parts = name.rsplit_once('-').and_then(|(rest, key)| Some((rest.rsplit_once('-')?, key)));
    let is_level = |level: &str| level.strip_suffix("bit").is_some_and(|bits| bits.parse::<f64>().is_ok());
    parts.is_some_and(|((name, level), key)| !name.is_empty() && is_level(level) && key::is_key(key))
}

fn source(path: &Path) -> Option<String> {
    let (mut text, note) = (String::new(), path.with_extension("json"));
    note.is_file().then(|| File::open(note).ok())??.take(LONGEST_NOTE).read_to_string(&mut text).ok()?;
    serde_json::from_str::<Value>(&text).ok()?["source"].as_str().map(str::to_owned)
}

/// Removes the models of these names after a question, or with `yes` without one; all of them, or none where a name is
/// not one of theirs.
pub(super) fn remove(names: &[String], yes: bool) -> Result<()> {
    let mut wanted: Vec<Converted> = Vec::new();
    for name in names {
        let found = named(name)?;
        if !wanted.iter().any(|known| known.path == found.path) {
            wanted.push(found);
        }
    }
    let size = |model: &Converted| model.path.metadata().map_or(0, |data| data.len());
    let shown: Vec<_> = wanted.iter().map(|model| model.path.display().to_string()).collect();
    let size = output::bytes(wanted.iter().map(size).sum());
    if !yes && !consent::can_ask() {
        bail!("nothing is removed without a question: --yes removes {} ({size})", shown.join(", "));
    }
    if !yes {
        consent::ask(&format!("remove {} ({size})", shown.join(", ")), Usual::No)?;
    }
    for model in &wanted {
        let note = model.path.with_extension("json");
        fs::remove_file(&model.path).with_context(|| format!("{}: cannot remove", model.path.display()))?;
        if note.is_file() {
            fs::remove_file(&note).with_context(|| format!("{}: cannot remove", note.display()))?;
        }
        output::print(format!("removed {}", model.path.display()))?;
    }
    Ok(())
}

/// The converted model of a name.
fn named(name: &str) -> Result<Converted> {
    let all = all();
    let known: Vec<_> = all.iter().map(|model| model.name.clone()).collect();
    let wanted = name.strip_suffix(".gguf").unwrap_or(name);
    if let Some(found) = all.into_iter().find(|model| model.name == wanted) {
        return Ok(found);
    }
    let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    bail!("{name} is no converted model, and only these are removed; there are {there}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(folder: &Path) -> Slot {
        Slot { folder: folder.to_owned(), ending: "-8bit-0123456789abcdef.gguf".into() }
    }

    #[test]
    fn names_that_we_give() {
        let folder = Path::new("cache");
        for (name, file) in [
            ("mixtral", "mixtral"),
            ("", "model"),
            ("..", "model"),
            (".hidden/x\n", "hidden_x_"),
            (&"ä".repeat(200), &"ä".repeat(LONGEST_NAME)),
        ] {
            let path = slot(folder).file(name);
            assert_eq!(path, folder.join(format!("{file}-8bit-0123456789abcdef.gguf")), "{name}");
            assert!(is_ours(path.file_stem().unwrap().to_str().unwrap()));
        }
        for name in [
            "mixtral",
            "mixtral-8bit",
            "mixtral-8bit-0123",
            "-8bit-0123456789abcdef",
            "m-xbit-0123456789abcdef",
            "m-8bit-0123456789ABCDEF",
        ] {
            assert!(!is_ours(name), "{name}");
        }
        assert!(is_ours("a-b-4.25bit-0123456789abcdef"));
    }

    #[test]
    fn a_slot_is_filled_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let slot = slot(folder.path());
        assert_eq!(slot.filled(), None);
        for name in ["x-8bit-0123456789abcdee.gguf", "x-4bit-0123456789abcdef.gguf", "notes.gguf"] {
            fs::write(folder.path().join(name), "GGUF").unwrap();
        }
        assert_eq!(slot.filled(), None);
        let other = slot.file("of another name");
        fs::write(&other, "GGUF").unwrap();
        assert_eq!(slot.filled(), Some(other.clone()));
        assert_eq!(source(&other), None);
        remember(&other, "hf:owner/repo").unwrap();
        assert_eq!(source(&other).as_deref(), Some("hf:owner/repo"));
        assert_eq!(all_in(folder.path()).len(), 3);
        fs::write(other.with_extension("json"), "{").unwrap();
        assert_eq!(source(&other), None);
    }
}
