//! Where this system keeps a person's files: models in the data folder, history in the state folder.
//!
//! The only file of the command that names operating systems. Nothing is created here.

use std::env;
use std::path::PathBuf;

/// Folders that may hold models: those of `$MOEWE_MODELS`, in its order, then the user's data folder.
pub(crate) fn models() -> Vec<PathBuf> {
    let named = env::var_os("MOEWE_MODELS").unwrap_or_default();
    let named = env::split_paths(&named).filter(|folder| !folder.as_os_str().is_empty());
    named.chain(data().map(|data| data.join("models"))).collect()
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

/// Source: XDG Base Directory Specification; relative paths in the variables are to be ignored.
#[cfg(not(any(windows, target_os = "macos")))]
fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let folder = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback)));
    folder.map(|folder| folder.join("moewe"))
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
