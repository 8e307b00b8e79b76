//! From what a person calls a model to its place: a path, a name found in the model folders, the name of a remote model,
//! or the model that is part of the program, which answers to its name and to none.
//!
//! The name of a file is its stem; of a split model the stem before `-00001-of-0000N`.

use super::{folders, pull};
use crate::embedded;
use crate::pull::{Remote, Wants};
use anyhow::{Result, bail};
use moewe_engine::gguf::Gguf;
use moewe_engine::os::{files::regular, link};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

const DEPTH: usize = 3; // folders within a model folder, e.g. owner/model/

/// A model file in a model folder.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    /// What to call it.
    pub(crate) name: String,
    /// The file, of a split model the first.
    pub(crate) path: PathBuf,
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// A file, of a split model the first.
    File(PathBuf),
    /// In the program itself.
    Embedded,
}

impl Place {
    /// Opens the model.
    pub(crate) fn open(&self) -> moewe_engine::Result<Gguf> {
        match self {
            Self::File(path) => Gguf::open(path),
            Self::Embedded => Gguf::from_static(embedded::model()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Embedded => f.write_str(embedded::NAME),
        }
    }
}

/// The place of the model called `name`; without a name, of the one in the program. Remote models that are not here are
/// pulled after a question, or with `yes` without one.
pub(crate) fn resolve(name: Option<&OsStr>, yes: bool) -> Result<Place> {
    if let Some(remote) = name.and_then(remote) {
        return existing(&pull::obtain(&remote?, Wants::Model, yes)?);
    }
    resolve_in(name, &folders::models(), folders::converted().as_slice())
}

/// The place of a model whose file is known.
pub(crate) fn existing(path: &Path) -> Result<Place> {
    match not_a_model(path) {
        Some(why) => bail!("{}: {why}", path.display()),
        None => Ok(Place::File(path.to_owned())),
    }
}

/// What to convert: a path, or what a remote name means.
pub(crate) fn resolve_source(source: &Path, yes: bool) -> Result<PathBuf> {
    match remote(source.as_os_str()) {
        Some(remote) => pull::obtain(&remote?, Wants::Checkpoint, yes),
        None => Ok(source.to_owned()),
    }
}

/// The remote model that is meant, unless a file is called so.
pub(crate) fn remote(name: &OsStr) -> Option<Result<Remote>> {
    if Path::new(name).exists() { None } else { Remote::parse(name.to_str()?) }
}

/// What was converted on the way stands behind all that a person put somewhere.
fn resolve_in(name: Option<&OsStr>, folders: &[PathBuf], converted: &[PathBuf]) -> Result<Place> {
    let Some(name) = name else { return Ok(Place::Embedded) };
    let mut all = find(folders);
    let is_known = !candidates(&all, name).is_empty();
    if name.eq_ignore_ascii_case(embedded::NAME) && !is_known {
        return Ok(Place::Embedded);
    }
    if !is_known {
        all.extend(find(converted));
    }
    existing(&file_of(name, &all, folders)?)
}

fn file_of(name: &OsStr, all: &[Found], folders: &[PathBuf]) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    if let Some(why) = link::broken(path) {
        bail!("{why}; mend the link or download the file again")
    }
    let ends: [&str; 6] = ["gguf", "safetensors", "bin", "pt", "pth", "json"];
    let is_file_name = path.extension().is_some_and(|end| ends.iter().any(|known| end == *known));
    if is_file_name && path.components().count() > 1 {
        bail!("{}: no such file", path.display())
    }
    let shown = name.display();
    match candidates(all, name) {
        found if found.is_empty() => bail!("no model is called {shown}{}", known_or_ways(all, folders)),
        found => only(found, &format!("several models are called {shown}; name one of these")),
    }
}

/// What a path is that no model can be run from, and what to do with it.
fn not_a_model(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some(about_folder(path));
    }
    if let Some(why) = link::broken(path) {
        return Some(format!("{why}; mend the link or download the file again"));
    }
    let (kind, folder) = (kind(path)?, folder_of(path).display());
    Some(format!(
        "{kind}, not a GGUF file; convert the checkpoint's folder first: moewe convert {folder} -o model.gguf"
    ))
}

const SAFETENSORS: &str = "safetensors";
const PICKLE: &str = "a PyTorch checkpoint";

/// What a file is by its first bytes, if that is something else than a model.
fn kind(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    // What cannot be read is an error where the model is opened.
    regular(path).ok()?; // a pipe would be waited for
    File::open(path).ok()?.take(9).read_to_end(&mut start).ok()?;
    match start.as_slice() {
        [b'G', b'G', b'U', b'F', ..] => None,
        [0, ..] if start.len() < 9 => None,
        // The length of a JSON header, then the header.
        [.., 0, 0, b'{'] if start.len() == 9 => Some(SAFETENSORS),
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Some(PICKLE),
        [b'{', ..] => Some("JSON"),
        _ => None,
    }
}

/// Whether a file has weights of a checkpoint.
pub(crate) fn holds_weights(path: &Path) -> bool {
    kind(path).is_some_and(|kind| kind == SAFETENSORS || kind == PICKLE)
}

/// Where a file lies.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn models_in(folder: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    walk(folder, 1, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Whether a folder has models to choose from.
pub(crate) fn holds_models(folder: &Path) -> bool {
    !models_in(folder).is_empty()
}

/// A folder is a checkpoint, or holds models of which one is to be named.
fn about_folder(folder: &Path) -> String {
    let files: Vec<_> = models_in(folder).iter().map(|found| found.path.display().to_string()).collect();
    if !files.is_empty() {
        return format!("a folder; name a file in it: {}", files.join(", "));
    }
    if folder.join("config.json").is_file() {
        let shown = folder.display();
        return format!(
            "a checkpoint, not a GGUF file; convert it first: moewe convert {shown} -o model.gguf"
        );
    }
    "a folder without a model; name a GGUF file, or a checkpoint's folder to moewe convert".to_owned()
}

/// Those that `name` means: of that very name, else those it begins, in upper or lower case.
fn candidates(all: &[Found], name: &OsStr) -> Vec<Found> {
    let name = name.to_string_lossy();
    let name = name.strip_suffix(".gguf").unwrap_or(&name).to_lowercase();
    let matching = |test: &dyn Fn(&str) -> bool| -> Vec<Found> {
        let found = all.iter().filter(|found| test(&found.name.to_lowercase()));
        found.map(|found| Found { name: found.name.clone(), path: found.path.clone() }).collect()
    };
    let mut exact = matching(&|known| known == name);
    // Earlier folders come before later ones, as in $PATH.
    exact.truncate(1);
    if exact.is_empty() { matching(&|known| known.starts_with(&name)) } else { exact }
}

fn only(mut found: Vec<Found>, complaint: &str) -> Result<PathBuf> {
    match found.len() {
        1 => Ok(found.remove(0).path),
        _ => bail!("{complaint}: {}", names(&found)),
    }
}

fn names(found: &[Found]) -> String {
    found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn known_or_ways(all: &[Found], folders: &[PathBuf]) -> String {
    if all.is_empty() { ways(folders) } else { format!("; there are {}", names(all)) }
}

/// How to get a model.
pub(crate) fn ways(folders: &[PathBuf]) -> String {
    let folder = folders.last().map_or("a folder named in $MOEWE_MODELS".into(), |f| f.display().to_string());
    format!(
        "\nThree ways to get one:
  1. pull one, moewe pull hf:OWNER/REPO (moewe list --remote names some), or download a GGUF file and give its path
  2. run a Hugging Face checkpoint, which converts it: moewe chat FOLDER; or moewe convert FOLDER -o model.gguf
  3. put GGUF files into {folder} (or name other folders in $MOEWE_MODELS) and give their names; moewe list shows them"
    )
}

/// All models in `folders`, in their order, by name within each.
pub(crate) fn find(folders: &[PathBuf]) -> Vec<Found> {
    let mut all = Vec::new();
    for folder in folders {
        let mut found = Vec::new();
        walk(folder, DEPTH, &mut found);
        found.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        all.append(&mut found);
    }
    all
}

/// A folder that cannot be read holds no models for this person.
fn walk(folder: &Path, depth: usize, found: &mut Vec<Found>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 1 {
            walk(&path, depth - 1, found);
        } else if let Some(name) = model_name(&path).filter(|_| path.is_file() || path.is_symlink()) {
            found.push(Found { name, path });
        }
    }
}

/// The model that a file holds, if its name says that it holds one or the first part of one.
fn model_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_string_lossy();
    let stem = file.strip_suffix(".gguf").filter(|stem| !stem.starts_with('.'))?;
    let split = stem.rsplit_once("-of-").and_then(|(rest, count)| {
        let (name, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then_some((name, number))
    });
    match split {
        Some((name, "00001")) => Some(name.to_owned()),
        Some(_) => None,
        None => Some(stem.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (file, name) in [
            ("a.gguf", Some("a")),
            ("x/b-Q4_K.gguf", Some("b-Q4_K")),
            ("c-00001-of-00003.gguf", Some("c")),
            ("c-00002-of-00003.gguf", None),
            ("c-1-of-3.gguf", Some("c-1-of-3")),
            (".a.gguf.12.part", None),
            (".a.gguf", None),
            ("a.bin", None),
        ] {
            assert_eq!(model_name(Path::new(file)).as_deref(), name, "{file}");
        }
    }

    #[test]
    fn names_paths_and_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        fs::create_dir_all(first.join("owner/deep")).unwrap();
        fs::create_dir_all(&second).unwrap();
        for file in [
            first.join("olmoe-q4.gguf"),
            first.join("owner/deep/olmoe-q8.gguf"),
            second.join("olmoe-q4.gguf"),
            second.join("big-00001-of-00002.gguf"),
            second.join("big-00002-of-00002.gguf"),
        ] {
            fs::write(file, "x").unwrap();
        }
        let folders = [first.clone(), second.clone(), folder.path().join("absent")];
        assert_eq!(find(&folders).len(), 4);
        let resolve_in =
            |name: Option<&str>, folders: &[PathBuf]| resolve_in(name.map(OsStr::new), folders, &[]);
        for (name, file) in [
            ("olmoe-q4", first.join("olmoe-q4.gguf")),
            ("OLMoE-Q4.gguf", first.join("olmoe-q4.gguf")),
            ("olmoe-q8", first.join("owner/deep/olmoe-q8.gguf")),
            ("b", second.join("big-00001-of-00002.gguf")),
        ] {
            assert_eq!(resolve_in(Some(name), &folders).unwrap(), Place::File(file), "{name}");
        }
        let path = second.join("big-00001-of-00002.gguf");
        assert_eq!(resolve_in(path.to_str(), &[]).unwrap(), Place::File(path));
        for name in [None, Some("Moewe-Mini")] {
            assert_eq!(resolve_in(name, &folders).unwrap(), Place::Embedded, "{name:?}");
        }
        assert!(Place::Embedded.open().is_ok());
        let converted = [folder.path().join("converted")];
        fs::create_dir(&converted[0]).unwrap();
        for name in ["olmoe-q4-8bit-0.gguf", "mixtral-8bit-0.gguf", "moewe-mini-8bit-0.gguf"] {
            fs::write(converted[0].join(name), "x").unwrap();
        }
        let with = |name: &str| super::resolve_in(Some(OsStr::new(name)), &folders, &converted).unwrap();
        assert_eq!(with("mixtral"), Place::File(converted[0].join("mixtral-8bit-0.gguf")));
        assert_eq!(with("olmoe-q4"), Place::File(first.join("olmoe-q4.gguf")));
        assert_eq!(with("moewe-mini"), Place::Embedded);
        for (name, folders, part) in [
            (Some("olmoe"), &folders[..], "several models are called olmoe; name one of these: olmoe-q4"),
            (Some("gpt"), &folders[..], "no model is called gpt; there are olmoe-q4"),
            (Some("gpt"), &[], "Three ways"),
            (Some("no/such.gguf"), &[], "no/such.gguf: no such file"),
            (Some("gpt"), &[], "moewe convert FOLDER"),
        ] {
            let message = resolve_in(name, folders).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn what_is_no_model_is_called_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["checkpoint", "models", "empty"] {
            fs::create_dir(at(name)).unwrap();
        }
        for (name, bytes) in [
            ("checkpoint/config.json", &b"{}"[..]),
            ("checkpoint/model.safetensors", b"\x40\x01\0\0\0\0\0\0{\"a\":"),
            ("checkpoint/pytorch_model.bin", b"PK\x03\x04rest"),
            ("checkpoint/old.pt", b"\x80\x02}q"),
            ("models/b.gguf", b"GGUF...."),
            ("models/a.gguf", b"GGUF...."),
        ] {
            fs::write(at(name), bytes).unwrap();
        }
        for (name, parts) in [
            ("checkpoint", ["a checkpoint, not a GGUF file", "moewe convert"]),
            ("checkpoint/config.json", ["JSON, not a GGUF file", "checkpoint -o model.gguf"]),
            ("checkpoint/model.safetensors", ["safetensors, not a GGUF file", "checkpoint -o model.gguf"]),
            ("checkpoint/pytorch_model.bin", ["a PyTorch checkpoint, not", "checkpoint -o model.gguf"]),
            ("checkpoint/old.pt", ["a PyTorch checkpoint, not", "checkpoint -o model.gguf"]),
            ("models", ["a folder; name a file in it", "a.gguf, "]),
            ("empty", ["a folder without a model", "name a GGUF file"]),
            ("absent/model.safetensors", ["no such file", "absent"]),
        ] {
            let message = resolve_in(Some(at(name).as_os_str()), &[], &[]).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{name}: {message}");
        }
        let model = at("models/a.gguf");
        assert_eq!(resolve_in(Some(model.as_os_str()), &[], &[]).unwrap(), Place::File(model));
    }

    #[cfg(unix)]
    #[test]
    fn links_and_bytes_that_are_no_letters() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join(OsStr::from_bytes(b"caf\xe9.gguf"));
        fs::write(&odd, "GGUF").unwrap();
        std::os::unix::fs::symlink("/gone/blob", folder.path().join("lost.gguf")).unwrap();
        let folders = [folder.path().to_owned()];
        for name in [odd.as_os_str(), OsStr::from_bytes(b"caf\xe9"), OsStr::from_bytes(b"caf\xe9.gguf")] {
            assert_eq!(resolve_in(Some(name), &folders, &[]).unwrap(), Place::File(odd.clone()), "{name:?}");
        }
        for name in [folder.path().join("lost.gguf").as_os_str(), OsStr::new("lost")] {
            let message = resolve_in(Some(name), &folders, &[]).unwrap_err().to_string();
            assert!(message.contains("lost.gguf is a link to /gone/blob, which does not exist"), "{message}");
        }
    }
}
