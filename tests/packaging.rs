//! The manifests of package managers are filled whole or not written: every archive that they name has its hash, and the
//! address of the project is a real one.
//!
//! Nothing is built here; what `packaging/build.sh` makes is checked by `.ci/deep`.

#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const TARGETS: [(&str, &str); 6] = [
    ("aarch64-apple-darwin", "tar.gz"),
    ("aarch64-pc-windows-msvc", "zip"),
    ("aarch64-unknown-linux-gnu", "tar.gz"),
    ("x86_64-apple-darwin", "tar.gz"),
    ("x86_64-pc-windows-msvc", "zip"),
    ("x86_64-unknown-linux-gnu", "tar.gz"),
];

/// The hash of the archive at this place of the list, a different one for each.
fn hash(place: usize) -> String {
    format!("{:064x}", place + 10)
}

/// A release of version 1.2.3 of a project at `repository`, with the first `archives` of its archives.
fn release(repository: &str, archives: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copied =
        Command::new("cp").arg("-R").arg(root.join("packaging")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    fs::write(folder.path().join("Cargo.toml"), format!("repository = \"{repository}\"\n")).unwrap();
    fs::create_dir(folder.path().join("release")).unwrap();
    for (place, (target, suffix)) in TARGETS.iter().enumerate().take(archives) {
        let name = format!("moewe-1.2.3-{target}.{suffix}");
        let sum = folder.path().join("release").join(format!("{name}.sha256"));
        fs::write(sum, format!("{}  {name}\n", hash(place))).unwrap();
    }
    folder
}

fn fill(folder: &Path) -> Output {
    let script = folder.join("packaging/manifests.sh");
    Command::new("bash").arg(script).arg("1.2.3").arg(folder.join("release")).output().unwrap()
}

#[test]
fn manifests_name_every_archive_with_its_hash() {
    let folder = release("https://example.org/gull/moewe", TARGETS.len());
    let output = fill(folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(folder.path().join("release/manifests").join(name)).unwrap();
    let (formula, scoop) = (read("homebrew/moewe.rb"), read("scoop/moewe.json"));
    let winget = read("winget/gull.Moewe.installer.yaml");
    for (place, (target, suffix)) in TARGETS.iter().enumerate() {
        let address = format!(
            "https://example.org/gull/moewe/releases/download/v1.2.3/moewe-1.2.3-{target}.{suffix}\""
        );
        let named_in: &[&str] = if *suffix == "zip" { &[&scoop, &winget] } else { &[&formula] };
        for manifest in named_in {
            let (_, behind) = manifest.split_once(&address).unwrap_or_else(|| panic!("{target}: {manifest}"));
            let next = behind.lines().nth(1).unwrap();
            assert!(next.contains(&format!("\"{}\"", hash(place))), "{target}: {next}");
        }
    }
    for text in [
        &formula,
        &scoop,
        &winget,
        &read("winget/gull.Moewe.yaml"),
        &read("winget/gull.Moewe.locale.en-US.yaml"),
    ] {
        assert!(text.contains("1.2.3"), "{text}");
        assert!(!text.contains('@'), "{text}");
    }
    serde_json::from_str::<serde_json::Value>(&scoop).unwrap();
}

#[test]
fn a_missing_archive_is_named() {
    let folder = release("https://example.org/gull/moewe", TARGETS.len() - 1);
    let output = fill(folder.path());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains("homebrew/moewe.rb names moewe-1.2.3-x86_64-unknown-linux-gnu"), "{message}");
}

#[test]
fn nobody_is_sent_to_a_placeholder() {
    let folder = release("https://github.com/OWNER/moewe", TARGETS.len());
    let output = fill(folder.path());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains("put the address of the project there"), "{message}");
    assert!(!folder.path().join("release/manifests").exists());
}
