//! What a conversion leaves behind that cannot finish: nothing, and what had the name before is untouched.
#![cfg(unix)]

mod support;

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

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The folder is as it was.
    fn assert_untouched(&self) {
        assert_eq!(self.names(), ["m.gguf"]);
        assert_eq!(std::fs::read(self.0.path().join("m.gguf")).unwrap(), OLD);
    }

    /// A command whose files may have `blocks` of 512 or 1024 bytes, as the shell counts.
    fn limited(&self, blocks: u32, arguments: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -f "$1"; shift; exec "$@""#, "sh", &blocks.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_moewe")).args(arguments);
        command.current_dir(self.0.path()).output().unwrap()
    }
}

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mixtral")
}

fn assert_too_large(output: &Output, part: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last = message.lines().last().unwrap();
    assert!(last.starts_with(&format!("error: {part}")), "{message}");
    assert_eq!(last.matches("File too large").count(), 1, "{message}");
}

#[test]
fn no_room_is_noticed_before_the_work() {
    let place = Place::new();
    let source = checkpoint();
    let arguments = ["convert", source.to_str().unwrap(), "-o", "m.gguf", "--force", "-q"];
    let output = place.limited(64, &arguments);
    assert_too_large(&output, "m.gguf: cannot ");
    place.assert_untouched();
    assert!(place.limited(64, &[&arguments[..], &["--dry-run"]].concat()).status.success());
}

/// Where room cannot be reserved, as for a file whose size nobody said, the write fails.
#[test]
fn no_room_in_the_middle_of_a_file_is_an_error_of_the_write() {
    let place = Place::new();
    let model = tempfile::tempdir().unwrap();
    let model = model.path().join("tiny.gguf");
    support::Tiny::default().write(&model);
    let arguments = ["logits", model.to_str().unwrap(), "--tokens", "1,2,3,4,5,6,7,8", "-o", "m.gguf"];
    assert_too_large(&place.limited(1, &arguments), "m.gguf: cannot write");
    place.assert_untouched();
}

#[test]
fn ctrl_c_leaves_nothing() {
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_moewe"));
    // The slowest format: two million weights take seconds.
    command.arg("convert").arg(checkpoint()).args(["-o", "m.gguf", "--force", "--format", "IQ2_XXS"]);
    command.current_dir(place.0.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while place.names().len() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began to write");
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("stopped"), "{message}");
    place.assert_untouched();
}
