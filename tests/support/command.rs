//! The command from outside, in a folder where it sees no models but that folder's.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The command in `folder`, with nothing on stdin. `MOEWE_BIN` names another than was built with the tests.
pub(crate) fn moewe(folder: &Path) -> Command {
    let built = || env!("CARGO_BIN_EXE_moewe").into();
    let mut command = Command::new(std::env::var_os("MOEWE_BIN").unwrap_or_else(built));
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
    command.env_remove("MOEWE_MODELS").env_remove("XDG_DATA_HOME").env_remove("XDG_STATE_HOME");
    command.env_remove("MOEWE_CACHE").env_remove("XDG_CACHE_HOME");
    command
}

/// What a command says to `input` on stdin, which it may end without reading.
pub(crate) fn fed(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    match child.stdin.take().unwrap().write_all(input.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What is in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
