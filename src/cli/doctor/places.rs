//! Where files are and which environment variables count: what exists, and what is set. No secret is told.

use super::super::{folders, models};
use serde::Serialize;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const DEPTH: usize = 4; // folders within a folder whose room is counted

#[derive(Debug, Serialize)]
pub(super) struct Folder {
    pub(super) what: &'static str,
    pub(super) path: String,
    pub(super) exists: bool,
    /// Of folders that are this program's own.
    pub(super) models: Option<usize>,
    pub(super) bytes: Option<u64>,
}

/// The program's own folders, and those of other programs whose models it runs.
pub(super) fn folders() -> Vec<Folder> {
    let others = folders::others();
    let mut all: Vec<Folder> = folders::models().iter().map(|path| own("models", path)).collect();
    all.extend(folders::converted().iter().map(|path| own("converted models", path)));
    all.extend(folders::state().iter().map(|path| Folder { models: None, ..own("history", path) }));
    all.extend(others.hub.iter().map(|path| of_others("Hugging Face", path)));
    all.extend(others.ollama.iter().map(|path| of_others("Ollama", path)));
    all.extend(others.lm_studio.iter().map(|path| of_others("LM Studio", path)));
    all
}

fn of_others(what: &'static str, path: &Path) -> Folder {
    Folder { what, path: path.display().to_string(), exists: path.is_dir(), models: None, bytes: None }
}

fn own(what: &'static str, path: &Path) -> Folder {
    let exists = path.is_dir();
    let models = exists.then(|| models::find(&[path.to_owned()]).len());
    Folder { models, bytes: exists.then(|| room(path, DEPTH)), ..of_others(what, path) }
}

/// What the files in a folder take; links count as links.
fn room(folder: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(status) if status.is_file() => status.len(),
        Ok(status) if status.is_dir() && depth > 1 => room(&entry.path(), depth - 1),
        _ => 0,
    };
    entries.map(of).sum()
}

#[derive(Debug, Serialize)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// `set` in the place of what may be a secret.
    pub(super) value: String,
}

/// Whether a variable's value is told.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Secret,
    /// May hold a password before an `@`.
    Address,
}

use Kind::{Address, Plain, Secret};

/// All variables that the program or its libraries heed, those aside that only say where a person's folders are.
static VARIABLES: &[(&str, Kind)] = &[
    ("MOEWE_MODELS", Plain),
    ("MOEWE_CACHE", Plain),
    ("MOEWE_API_KEY", Secret),
    ("MOEWE_CUDA_LIBRARY", Plain),
    ("HF_TOKEN", Secret),
    ("HF_TOKEN_PATH", Plain),
    ("HF_HOME", Plain),
    ("HF_HUB_CACHE", Plain),
    ("HF_HUB_OFFLINE", Plain),
    ("HF_ENDPOINT", Address),
    ("MODELSCOPE_ENDPOINT", Address),
    ("OLLAMA_MODELS", Plain),
    ("CUDA_VISIBLE_DEVICES", Plain),
    ("NO_COLOR", Plain),
    ("XDG_DATA_HOME", Plain),
    ("XDG_STATE_HOME", Plain),
    ("XDG_CACHE_HOME", Plain),
    ("HTTPS_PROXY", Address),
    ("https_proxy", Address),
    ("HTTP_PROXY", Address),
    ("http_proxy", Address),
    ("ALL_PROXY", Address),
    ("all_proxy", Address),
    ("NO_PROXY", Plain),
    ("no_proxy", Plain),
    ("SSL_CERT_FILE", Plain),
    ("SSL_CERT_DIR", Plain),
];

/// Those of [`VARIABLES`] that are set.
pub(super) fn environment() -> Vec<Variable> {
    let told = |&(name, kind): &(&'static str, Kind)| {
        let value = env::var_os(name).map(PathBuf::from)?.display().to_string();
        Some(Variable { name, value: shown(kind, value) })
    };
    VARIABLES.iter().filter_map(told).collect()
}

fn shown(kind: Kind, value: String) -> String {
    let is_secret = kind == Secret || kind == Address && value.contains(['@', '?']);
    if is_secret { "set".to_owned() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_told() {
        let told = |kind, value: &str| shown(kind, value.to_owned());
        assert_eq!(told(Secret, "hf_abc"), "set");
        assert_eq!(told(Address, "http://me:pass@proxy:3128"), "set");
        assert_eq!(told(Address, "http://proxy:3128"), "http://proxy:3128");
        assert_eq!(told(Plain, "a@b"), "a@b");
    }

    #[test]
    fn the_room_of_a_folder_is_that_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for (name, bytes) in [("x", 10), ("a/y", 20), ("a/b/z.gguf", 30)] {
            fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        let own = own("models", folder.path());
        assert_eq!((own.bytes, own.models, own.exists), (Some(60), Some(1), true));
        let absent = super::own("models", &folder.path().join("absent"));
        assert_eq!((absent.bytes, absent.models, absent.exists), (None, None, false));
    }

    /// Whoever reads a new variable adds it to the table.
    #[test]
    fn every_variable_that_the_source_reads_is_known() {
        const PLACES: [&str; 6] =
            ["HOME", "USERPROFILE", "LOCALAPPDATA", "CARGO_PKG_VERSION", "OUT_DIR", "PATH"];
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let call =
            regex::Regex::new(r#"\b(?:var|var_os|absolute|variable|endpoint|xdg)\("([A-Z_]+)""#).unwrap();
        let mut found = 0;
        for file in [
            "src/cli/folders.rs",
            "src/cli/output.rs",
            "src/cli/serve.rs",
            "src/pull/client.rs",
            "src/pull/name.rs",
        ] {
            let text = fs::read_to_string(root.join(file)).unwrap();
            for name in call.captures_iter(&text).map(|found| found[1].to_owned()) {
                let is_known =
                    VARIABLES.iter().any(|(known, _)| *known == name) || PLACES.contains(&name.as_str());
                assert!(is_known, "{file} reads {name}");
                found += 1;
            }
        }
        assert!(found > 10, "{found}");
        assert!(VARIABLES.iter().any(|(name, _)| *name == moewe_engine::cuda::LIBRARY_VARIABLE));
    }
}
