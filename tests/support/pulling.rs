//! A person's machine with a hub on it, for the tests of `moewe pull` and of remote names.

#![allow(dead_code, reason = "each test uses what it needs")]

use crate::command::{moewe, names, stderr};
use crate::hub::Hub;
use moewe_engine::gguf::{Metadata, Writer};
use moewe_engine::quant::Format;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

pub(crate) const FILE: &str = "m-Q4_K_M.gguf";

/// A person's machine with a hub.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) hub: Hub,
}

impl Place {
    pub(crate) fn with(files: &[(&str, &[u8])]) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), hub: Hub::start(files) }
    }

    /// With one model of three mebibytes.
    pub(crate) fn new() -> Self {
        Self::with(&[(FILE, model(3))])
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = moewe(self.folder.path());
        for variable in
            ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OLLAMA_MODELS"]
        {
            command.env_remove(variable);
        }
        command.env("HF_ENDPOINT", self.hub.url()).env("MODELSCOPE_ENDPOINT", self.hub.url()).args(arguments);
        command
    }

    pub(crate) fn pull(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["pull"]);
        command.args(arguments).args(["--pause", "10", "--stall", "1000"]);
        command
    }

    /// A pull in small ranges, side by side.
    pub(crate) fn pull_in_ranges(&self) -> Command {
        let mut command = self.pull(&["hf:owner/repo"]);
        command.args(["--range-size", "524288", "--parallel-from", "1048576"]);
        command
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.folder.path().join(".local/share/moewe/models/owner/repo")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.models().join(FILE)
    }

    #[track_caller]
    pub(crate) fn assert_whole(&self, output: &Output) {
        assert!(output.status.success(), "{}", stderr(output));
        assert_eq!(names(&self.models()), [FILE], "{}", stderr(output));
        assert!(fs::read(self.file()).unwrap() == model(3), "other bytes");
    }

    #[track_caller]
    pub(crate) fn assert_fails(&self, output: &Output, parts: &[&str]) {
        let message = stderr(output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        parts.iter().for_each(|part| assert!(message.contains(part), "'{part}' is not in {message}"));
        assert!(!self.file().exists(), "{message}");
    }
}

/// A GGUF file of so many mebibytes, no two of which are the same.
pub(crate) fn model(mib: u64) -> &'static [u8] {
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    static LARGE: OnceLock<Vec<u8>> = OnceLock::new();
    (if mib <= 3 { &SMALL } else { &LARGE }).get_or_init(|| {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        gguf(metadata, mib)
    })
}

pub(crate) fn gguf(metadata: Metadata, mib: u64) -> Vec<u8> {
    let (folder, count) = (tempfile::tempdir().unwrap(), mib << 18);
    let path = folder.path().join("m.gguf");
    let directory =
        vec![("token_embd.weight".to_owned(), Format::by_name("F32").unwrap(), vec![1024, count >> 10])];
    let mut writer = Writer::new(metadata, directory).unwrap().create(&path).unwrap();
    let bytes: Vec<u8> =
        (0..count as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    writer.write_tensor(&bytes).unwrap();
    writer.finish().unwrap();
    fs::read(path).unwrap()
}
