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

    /// Hidden files that something is written into.
    fn hidden(&self) -> usize {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap());
        let hidden = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".m.gguf."));
        hidden.filter(|entry| entry.metadata().is_ok_and(|data| data.len() > 0)).count()
    }

    /// Sends a signal to a conversion once it writes so many hidden files.
    fn stop(&self, arguments: &[&str], signal: &str, files: usize) -> Output {
        let mut command = moewe(self.0.path());
        command.arg("convert").args(arguments).args(["-o", "m.gguf", "--force"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while self.hidden() < files {
            assert!(child.try_wait().unwrap().is_none(), "it ended before there were {files} files");
            assert!(start.elapsed() < Duration::from_secs(300), "there are no {files} files");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        child.wait_with_output().unwrap()
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The last line begins with an error about a file called `name`, and goes on so.
fn assert_too_large(output: &Output, name: &str, failure: &str) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last = message.lines().last().unwrap();
    let (place, rest) = last.strip_prefix("error: ").and_then(|line| line.split_once(": ")).unwrap();
    assert!(place == name && rest.starts_with(failure), "{message}");
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
    assert_too_large(&output, "m.gguf", "cannot make room");
    place.assert_untouched();
}

/// Where room cannot be reserved, as for a file whose size nobody said, the write fails.
#[test]
fn no_room_in_the_middle_of_a_file_is_an_error_of_the_write() {
    let place = Place::new();
    let model = tempfile::tempdir().unwrap();
    let model = model.path().join("tiny.gguf");
    support::Tiny::default().write(&model);
    let tokens = "1,2,3,4,5,6,7,8";
    let arguments = ["logits", model.to_str().unwrap(), "--tokens", tokens, "-o", "m.gguf", "--force"];
    assert_too_large(&place.limited(1, &arguments), "m.gguf", "cannot write");
    place.assert_untouched();
}

/// Conversions that take a while: in the slowest format, and with a model made for calibration beside the target.
fn slow() -> [Vec<String>; 2] {
    let path = |name: &str| root(name).to_str().unwrap().to_owned();
    let text = path("tests/golden/text/de-seen.txt");
    let plain = [path("tests/golden/mixtral"), "--format".into(), "IQ2_XXS".into()];
    let mini = path("models/moewe-mini");
    let calibrated = [mini, "--format".into(), "Q2_K".into(), "--calibrate".into(), text];
    [plain.into(), calibrated.into()]
}

#[test]
fn a_signal_leaves_nothing() {
    let place = Place::new();
    let slow = slow();
    let [plain, calibrated] = slow.each_ref().map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
    for (arguments, signal, files, status) in [
        (&plain, "-INT", 1, 130),
        (&plain, "-TERM", 1, 143),
        (&calibrated, "-TERM", 1, 143),
        (&calibrated, "-INT", 2, 130),
    ] {
        let output = place.stop(arguments, signal, files);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?} {signal}: {message}");
        assert!(message.contains("stopped"), "{arguments:?} {signal}: {message}");
        place.assert_untouched();
    }
}

#[test]
fn what_a_killed_conversion_left_is_cleared_by_the_next() {
    let place = Place::new();
    for (arguments, files) in slow().iter().zip([1, 2]) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let killed = place.stop(&arguments, "-KILL", files);
        assert_eq!(killed.status.code(), None, "{}", stderr(&killed));
        assert_eq!(names(place.0.path()).len(), 1 + files);
        assert_eq!(std::fs::read(place.0.path().join("m.gguf")).unwrap(), OLD);
        let next = ["convert", arguments[0], "-o", "m.gguf", "--format", "Q8_0", "--force"];
        let next = moewe(place.0.path()).args(next).output().unwrap();
        assert!(next.status.success(), "{}", stderr(&next));
        assert_eq!(names(place.0.path()), ["m.gguf"]);
        std::fs::write(place.0.path().join("m.gguf"), OLD).unwrap();
    }
}
