//! Where files go: what exists is kept, what is no file is not replaced, and nobody writes a file twice at once.

use super::*;
use std::fs;
use std::io::Write;
use std::path::Path;

fn write(target: &Path, existing: Existing) -> crate::Result<()> {
    let mut destination = Destination::create(target, existing)?;
    destination.write_all(b"new").unwrap();
    destination.publish()
}

fn refused<T>(outcome: crate::Result<T>, target: &Path, part: &str) {
    let message = outcome.map(drop).unwrap_err().to_string();
    assert!(message.starts_with(&*target.to_string_lossy()) && message.contains(part), "{message}");
    assert!(!message.contains(".part"), "a hidden file is named: {message}");
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn an_existing_file_is_kept_or_replaced_as_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m");
    write(&target, Existing::Keep).unwrap();
    fs::write(&target, "old").unwrap();
    refused(write(&target, Existing::Keep), &target, "--force");
    refused(Destination::check(&target, Existing::Keep), &target, "--force");
    assert_eq!(fs::read(&target).unwrap(), b"old");
    Destination::check(&target, Existing::Replace).unwrap();
    write(&target, Existing::Replace).unwrap();
    assert_eq!((fs::read(&target).unwrap(), count(folder.path())), (b"new".to_vec(), 1));
}

#[test]
fn what_appears_meanwhile_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m");
    let destination = Destination::create(&target, Existing::Keep).unwrap();
    fs::write(&target, "of another program").unwrap();
    refused(destination.publish(), &target, "exists now");
    assert_eq!(fs::read(&target).unwrap(), b"of another program");
    // What was a file to be replaced is a folder now.
    let destination = Destination::create(&target, Existing::Replace).unwrap();
    fs::remove_file(&target).unwrap();
    fs::create_dir(&target).unwrap();
    refused(destination.publish(), &target, "is a folder");
    assert_eq!(count(folder.path()), 1);
}

#[test]
fn a_target_has_one_writer_and_orphans_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m");
    let orphan = folder.path().join(".m.moewe-a1B2c3.part");
    // Names that only look alike, and hidden files of another target.
    let others = [".m.moewe-a1B2c.part", ".m.moewe-a1B2c3.part.old", ".m.part", ".mm.moewe-a1B2c3.part"];
    others.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
    fs::write(&orphan, "what a killed process left").unwrap();
    let first = Destination::create(&target, Existing::Replace).unwrap();
    assert!(!orphan.exists());
    for existing in [Existing::Keep, Existing::Replace] {
        refused(Destination::create(&target, existing), &target, "being written");
        refused(Destination::check(&target, existing), &target, "being written");
    }
    let scratch = first.scratch().unwrap().keep_hidden().unwrap();
    refused(Destination::create(&target, Existing::Keep), &target, "being written");
    assert_eq!(fs::read(scratch.path()).unwrap(), b"");
    first.publish().unwrap();
    refused(Destination::create(&target, Existing::Replace), &target, "being written");
    drop(scratch);
    Destination::create(&target, Existing::Replace).unwrap();
    assert_eq!(count(folder.path()), others.len() + 1);
}

#[test]
fn folders_and_names_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(write(folder.path(), Existing::Replace), folder.path(), "is a folder");
    let inside = folder.path().join("new/");
    refused(write(&inside, Existing::Replace), &inside, "is a folder");
    refused(write(Path::new(".."), Existing::Replace), Path::new(".."), "is a folder");
    refused(write(Path::new(""), Existing::Replace), Path::new(""), "not a file name");
    assert_eq!(count(folder.path()), 0);
}

#[cfg(unix)]
mod special {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    #[test]
    fn links_are_followed_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, dangling] = ["file", "link", "dangling"].map(|name| folder.path().join(name));
        fs::write(&file, "old").unwrap();
        symlink(&file, &link).unwrap();
        symlink(folder.path().join("nothing"), &dangling).unwrap();
        refused(write(&link, Existing::Keep), &link, "exists");
        write(&link, Existing::Replace).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link itself was replaced");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        for existing in [Existing::Keep, Existing::Replace] {
            refused(write(&dangling, existing), &dangling, "link to nothing");
        }
        assert_eq!(count(folder.path()), 3);
    }

    #[test]
    fn a_pipe_is_written_through_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for existing in [Existing::Keep, Existing::Replace] {
            refused(write(&pipe, existing), &pipe, "pipe");
        }
        Destination::check(&pipe, Existing::Keep).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        let mut destination = Destination::stream(&pipe, Existing::Keep).unwrap();
        destination.write_all(b"through").unwrap();
        destination.publish().unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        refused(Destination::stream(&socket, Existing::Replace).map(drop), &socket, "regular file");
        assert_eq!(count(folder.path()), 2);
    }
}

/// A file's name may be as long as the system allows, though its hidden file's is longer.
#[test]
fn long_names_have_hidden_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x".repeat(255), "ö".repeat(127)] {
        let target = folder.path().join(&name);
        write(&target, Existing::Keep).unwrap();
        assert!(target.exists(), "{name}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
}
