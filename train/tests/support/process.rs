//! The binary `moewe-train` in a process of its own, and what it leaves in the folder of a run.

use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A call of the binary.
pub(crate) struct Call(pub(crate) Command);

pub(crate) fn trainer<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Call {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moewe-train"));
    command.args(arguments).stdin(Stdio::null());
    Call(command)
}

impl Call {
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.0.args(arguments);
        self
    }

    fn output(mut self) -> Output {
        self.0.output().unwrap()
    }

    /// Standard error of a call that must succeed.
    #[track_caller]
    pub(crate) fn succeed(self) -> String {
        let output = self.output();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        error
    }

    /// Standard output of a call that must succeed.
    #[track_caller]
    pub(crate) fn said(self) -> String {
        let output = self.output();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The last line on standard error of a call that must be refused.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        let output = self.output();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        let last = error.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("error: "), "{error}");
        last
    }

    pub(crate) fn spawn(mut self) -> Child {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// Events of a run's metrics.jsonl in their order, without what depends on the clock.
pub(crate) fn events(out: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    let parse = |line: &str| serde_json::from_str::<Map<String, Value>>(line).ok();
    let mut events: Vec<_> = text.lines().filter_map(parse).collect();
    for event in &mut events {
        ["unix_time", "tokens_per_second", "memory_bytes"].iter().for_each(|key| drop(event.remove(*key)));
    }
    events
}

/// Events of one kind.
pub(crate) fn events_of(out: &Path, kind: &str) -> Vec<Map<String, Value>> {
    let mut events = events(out);
    events.retain(|event| event["event"] == kind);
    events
}

/// A number of every optimizer step.
pub(crate) fn column(out: &Path, key: &str) -> Vec<f64> {
    events_of(out, "step").iter().map(|event| event[key].as_f64().unwrap_or(f64::NAN)).collect()
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
