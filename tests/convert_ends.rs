//! What a conversion leaves behind that cannot finish: nothing, and what had the name before is untouched.
#![cfg(unix)]

#[path = "support/command.rs"]
mod command;
mod support;

use command::{moewe, names, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const OLD: &[u8] = b"what was there before";

/// A folder with a file that a conversion is to replace.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.gguf"), OLD).unwrap();
        Self(folder)
    }

    /// The folder is as it was.
    fn assert_untouched(&self) {
        assert_eq!(names(self.0.path()), ["m.gguf"]);
        assert_eq!(std::fs::read(self.0.path().join("m.gguf")).unwrap(), OLD);
    }

    /// A command whose files may have `blocks` of 512 or 1024 bytes, as the shell counts.
    fn limited(&self, blocks: u32, arguments: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -f "$1"; shift; exec "$@""#, "sh", &blocks.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_moewe")).args(arguments);
        command.current_dir(self.0.path()).output().unwrap()
    }

    /// Sends a signal to a conversion once there is a file whose name begins so.
    fn stop(&self, arguments: &[&str], signal: &str, file: &str) -> Output {
        let mut command = moewe(self.0.path());
        command.arg("convert").args(arguments).args(["-o", "m.gguf", "--force"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while !names(self.0.path()).iter().any(|name| name.starts_with(file)) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before there was {file}");
            assert!(start.elapsed() < Duration::from_secs(300), "there is no {file}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        child.wait_with_output().unwrap()
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The last line begins with an error about a file called `name`, which may be random before that, and goes on so.
fn assert_too_large(output: &Output, name: &str, failure: &str) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last = message.lines().last().unwrap();
    let (place, rest) = last.strip_prefix("error: ").and_then(|line| line.split_once(": ")).unwrap();
    assert!(place.ends_with(name) && rest.starts_with(failure), "{message}");
    assert!(name.starts_with('.') || place == name, "{message}");
    assert_eq!(last.matches("File too large").count(), 1, "{message}");
}

#[test]
fn no_room_is_noticed_before_the_work() {
    let place = Place::new();
    let source = root("tests/golden/mixtral");
    let arguments = ["convert", source.to_str().unwrap(), "-o", "m.gguf", "--force", "-q"];
    let output = place.limited(64, &arguments);
    assert_too_large(&output, "m.gguf", "cannot make room");
    place.assert_untouched();
    assert!(place.limited(64, &[&arguments[..], &["--dry-run"]].concat()).status.success());
    let text = root("tests/golden/text/de-seen.txt");
    let calibrate = ["--calibrate", text.to_str().unwrap()];
    let output = place.limited(64, &[&arguments[..], &calibrate].concat());
    assert_too_large(&output, ".gguf", "cannot make room");
    place.assert_untouched();
}

/// Where room cannot be reserved, as for a file whose size nobody said, the write fails.
#[test]
fn no_room_in_the_middle_of_a_file_is_an_error_of_the_write() {
    let place = Place::new();
    let model = tempfile::tempdir().unwrap();
    let model = model.path().join("tiny.gguf");
    support::Tiny::default().write(&model);
    let arguments = ["logits", model.to_str().unwrap(), "--tokens", "1,2,3,4,5,6,7,8", "-o", "m.gguf"];
    assert_too_large(&place.limited(1, &arguments), "m.gguf", "cannot write");
    place.assert_untouched();
}

#[test]
fn a_signal_leaves_nothing() {
    let place = Place::new();
    let (slow, mini) = (root("tests/golden/mixtral"), root("models/moewe-mini"));
    let text = root("tests/golden/text/de-seen.txt");
    // The slowest format: two million weights take seconds.
    let plain = [slow.to_str().unwrap(), "--format", "IQ2_XXS"];
    let calibrated = [mini.to_str().unwrap(), "--format", "Q2_K", "--calibrate", text.to_str().unwrap()];
    for (arguments, signal, file, status) in [
        (&plain[..], "-INT", ".m.gguf.", 130),
        (&plain, "-TERM", ".m.gguf.", 143),
        (&calibrated, "-TERM", ".moewe-calibration-", 143),
        (&calibrated, "-INT", ".m.gguf.", 130),
    ] {
        let output = place.stop(arguments, signal, file);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?} {signal}: {message}");
        assert!(message.contains("stopped"), "{arguments:?} {signal}: {message}");
        place.assert_untouched();
    }
}
