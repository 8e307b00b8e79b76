//! Where this system keeps a person's files: models in the data folder, history in the state folder, and what can be made
//! again in the cache folder.
//!
//! The only file of the command that names operating systems. Nothing is created here.

use crate::pull::Others;
use moewe_engine::os::room;
use std::env;
use std::path::{Path, PathBuf};

/// Folders that may hold models: those of `$MOEWE_MODELS`, in its order, then the user's data folder.
pub(crate) fn models() -> Vec<PathBuf> {
    let named = env::var_os("MOEWE_MODELS").unwrap_or_default();
    let named = env::split_paths(&named).filter(|folder| !folder.as_os_str().is_empty());
    named.chain(data().map(|data| data.join("models"))).collect()
}

/// Where Hugging Face's tools, Ollama and LM Studio keep models.
pub(crate) fn others() -> Others {
    let home = absolute("HOME").or_else(|| absolute("USERPROFILE"));
    let below = |path: &str| home.as_ref().map(|home| home.join(path));
    let cache = absolute("HF_HUB_CACHE").or_else(|| absolute("HF_HOME").map(|home| home.join("hub")));
    let studio = [".lmstudio/models", ".cache/lm-studio/models"]; // the second until 2025
    Others {
        hub: cache.or_else(|| below(".cache/huggingface/hub")),
        ollama: absolute("OLLAMA_MODELS").or_else(|| below(".ollama/models")),
        lm_studio: studio.into_iter().filter_map(below).collect(),
    }
}

/// Whether the person has forbidden the network, in the words of Hugging Face's tools.
pub(crate) fn is_offline() -> bool {
    let value = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
    matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// The user's data folder of this program.
fn data() -> Option<PathBuf> {
    #[cfg(windows)]
    return absolute("LOCALAPPDATA").map(|folder| folder.join("moewe"));
    #[cfg(target_os = "macos")]
    return absolute("HOME").map(|home| home.join("Library/Application Support/moewe"));
    #[cfg(not(any(windows, target_os = "macos")))]
    xdg("XDG_DATA_HOME", ".local/share")
}

/// The user's folder for what this program remembers between runs.
pub(crate) fn state() -> Option<PathBuf> {
    #[cfg(any(windows, target_os = "macos"))]
    return data();
    #[cfg(not(any(windows, target_os = "macos")))]
    xdg("XDG_STATE_HOME", ".local/state")
}

/// The folder of models that were converted on the way: in `$MOEWE_CACHE`, else in the user's cache folder.
pub(crate) fn converted() -> Option<PathBuf> {
    let named = env::var_os("MOEWE_CACHE").map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    named.or_else(cache).map(|cache| cache.join("converted"))
}

/// The user's folder for what this program can make again.
fn cache() -> Option<PathBuf> {
    #[cfg(windows)]
    return data().map(|data| data.join("cache"));
    #[cfg(target_os = "macos")]
    return absolute("HOME").map(|home| home.join("Library/Caches/moewe"));
    #[cfg(not(any(windows, target_os = "macos")))]
    xdg("XDG_CACHE_HOME", ".cache")
}

/// Source: XDG Base Directory Specification; relative paths in the variables are to be ignored.
#[cfg(not(any(windows, target_os = "macos")))]
fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let folder = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback)));
    folder.map(|folder| folder.join("moewe"))
}

/// Bytes that are free for a folder, which need not be there yet.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    folder.ancestors().find_map(room::available)
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
