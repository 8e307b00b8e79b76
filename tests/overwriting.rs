//! Nothing that exists is lost: commands write over a file only when they are told to, never over the model that they
//! read, never over what is no file, and a full disk leaves what was there.

#[path = "support/command.rs"]
mod command;
mod support;

use command::{moewe, names, stderr, stdout};
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use support::Tiny;

const OLD: &str = "what was there before";

/// A folder with a model and a text.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Tiny::default().write(&folder.path().join("tiny.gguf"));
        fs::write(folder.path().join("text"), "the quick brown fox ".repeat(20)).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        moewe(self.0.path()).args(arguments).output().unwrap()
    }

    fn refused(&self, arguments: &[&str], parts: &[&str]) {
        let output = self.run(arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        let last = message.lines().last().unwrap();
        assert!(last.starts_with("error: ") && parts.iter().all(|part| last.contains(part)), "{message}");
        assert!(!names(self.0.path()).iter().any(|name| name.starts_with('.')), "{arguments:?}");
    }

    fn chat(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = moewe(self.0.path());
        command::fed(command.args(["chat", "tiny.gguf", "-n", "3"]).args(arguments), input)
    }
}

/// Commands that write to `target`.
fn commands(target: &str) -> [Vec<&str>; 5] {
    [
        vec!["logits", "tiny.gguf", "--tokens", "5,9", "-o", target],
        vec!["compare", "tiny.gguf", "tiny.gguf", "--text", "text", "-c", "64", "--svg", target],
        vec!["experts", "tiny.gguf", "--text", "text", "--trace", target],
        vec!["importance", "tiny.gguf", "--text", "text", "-c", "64", "-o", target],
        vec!["convert", "tiny.gguf", "--format", "Q8_0", "-o", target],
    ]
}

fn forced<'a>(command: &[&'a str]) -> Vec<&'a str> {
    [command, &["--force"]].concat()
}

#[test]
fn only_force_replaces_a_file() {
    let place = Place::new();
    for command in commands("out") {
        fs::write(place.path("out"), OLD).unwrap();
        place.refused(&command, &["out exists; --force replaces it"]);
        assert_eq!(fs::read_to_string(place.path("out")).unwrap(), OLD);
        let output = place.run(&forced(&command));
        assert!(output.status.success(), "{command:?}: {}", stderr(&output));
        assert_ne!(fs::read(place.path("out")).unwrap(), OLD.as_bytes(), "{command:?}");
    }
    assert_eq!(names(place.0.path()), ["out", "text", "tiny.gguf"]);
}

#[test]
fn the_model_that_is_read_stays() {
    let place = Place::new();
    let model = fs::read(place.path("tiny.gguf")).unwrap();
    for command in commands("tiny.gguf") {
        place.refused(&command, &["tiny.gguf"]);
        place.refused(&forced(&command), &["tiny.gguf is", "name another file"]);
        assert_eq!(fs::read(place.path("tiny.gguf")).unwrap(), model, "{command:?}");
    }
}

#[test]
fn folders_are_refused_before_the_work() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    // The text does not exist, which would be noticed next.
    fs::remove_file(place.path("text")).unwrap();
    for command in commands("folder") {
        place.refused(&forced(&command), &["folder is a folder"]);
    }
    for command in commands("nowhere/out") {
        place.refused(&command, &["nowhere/out: cannot create"]);
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_written_through_or_refused() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = Place::new();
    symlink("nothing", place.path("dangling")).unwrap();
    for command in commands("dangling") {
        place.refused(&forced(&command), &["dangling is a link to nothing"]);
        assert!(fs::symlink_metadata(place.path("dangling")).unwrap().is_symlink());
    }
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let [through @ .., importance, convert] = commands("pipe");
    for command in [importance, convert] {
        place.refused(&forced(&command), &["pipe is a pipe"]);
    }
    for command in through {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        let output = place.run(&command);
        assert!(output.status.success(), "{command:?}: {}", stderr(&output));
        assert!(!reader.join().unwrap().is_empty(), "{command:?}");
    }
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn a_chat_is_saved_over_a_file_only_by_force() {
    let place = Place::new();
    fs::write(place.path("old.json"), OLD).unwrap();
    let model = fs::read(place.path("tiny.gguf")).unwrap();
    let chat = place.chat(&[], "hello\n/save old.json\n/save --force tiny.gguf\n/save --force .\n/save\n");
    let said = stderr(&chat);
    for part in [
        "old.json exists; /save --force old.json replaces it",
        "tiny.gguf is the model",
        ". is a folder",
        "which file?",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(chat.status.code(), Some(1));
    assert_eq!(fs::read_to_string(place.path("old.json")).unwrap(), OLD);
    assert_eq!(fs::read(place.path("tiny.gguf")).unwrap(), model);
    let chat = place.chat(&[], "hello\n/save --force old.json\n/save new.json\n/help\n");
    assert!(chat.status.success() && stderr(&chat).contains("/save [--force] FILE"), "{}", stderr(&chat));
    let [old, new] = ["old.json", "new.json"].map(|name| fs::read_to_string(place.path(name)).unwrap());
    assert!(old == new && old.contains("hello"), "{old}");
    assert_eq!(names(place.0.path()), ["new.json", "old.json", "text", "tiny.gguf"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_conversation() {
    let place = Place::new();
    let turn = |i: usize| format!(r#"{{"role":"user","content":"{}"}}"#, format!("question {i} ").repeat(20));
    let answer = r#"{"role":"assistant","content":"yes"}"#;
    let turns: Vec<String> = (0..16).map(|i| format!("{},{answer}", turn(i))).collect();
    fs::write(place.path("longer.json"), format!("[{}]", turns.join(","))).unwrap();
    fs::write(place.path("old.json"), format!("[{},{answer}]", turn(0))).unwrap();
    let old = fs::read(place.path("old.json")).unwrap();
    // Files may have 2 blocks of 512 or 1024 bytes, as the shell counts.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -f 2; exec "$@""#, "sh", env!("CARGO_BIN_EXE_moewe")]);
    command.args(["chat", "tiny.gguf", "--load", "longer.json"]).current_dir(place.0.path());
    let chat = command::fed(command.env("HOME", place.0.path()), "/save --force old.json\n");
    let said = stderr(&chat);
    assert!(chat.status.code() == Some(1) && said.contains("old.json: cannot write"), "{said}");
    assert_eq!(fs::read(place.path("old.json")).unwrap(), old);
    assert_eq!(names(place.0.path()), ["longer.json", "old.json", "text", "tiny.gguf"]);
}

/// Commands that read a text.
fn readers() -> [Vec<&'static str>; 5] {
    [
        vec!["perplexity", "tiny.gguf", "-c", "64", "--text", "input"],
        vec!["compare", "tiny.gguf", "tiny.gguf", "-c", "64", "--text", "input"],
        vec!["experts", "tiny.gguf", "--text", "input"],
        vec!["importance", "tiny.gguf", "-c", "64", "--text", "input"],
        vec!["convert", "tiny.gguf", "--bits", "4", "-o", "out", "--calibrate", "input"],
    ]
}

#[test]
fn texts_have_to_be_texts() {
    let place = Place::new();
    let text = fs::read_to_string(place.path("text")).unwrap();
    let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], &str); 4] = [
        (&[b"\xff\xfe", &utf_16[..]].concat(), "UTF-16LE; UTF-8 is read"),
        (&utf_16, "UTF-16LE; UTF-8 is read"),
        (&fs::read(place.path("tiny.gguf")).unwrap(), "binary data"),
        (b"", "no text"),
    ];
    for (bytes, part) in cases {
        fs::write(place.path("input"), bytes).unwrap();
        readers().iter().for_each(|command| place.refused(command, &["input: ", part]));
    }
    let measured = |bytes: &[u8]| {
        fs::write(place.path("input"), bytes).unwrap();
        let output = place.run(&readers()[0]);
        assert!(output.status.success(), "{}", stderr(&output));
        (stdout(&output), stderr(&output))
    };
    let (plain, _) = measured(text.as_bytes());
    assert_eq!(measured(&[b"\xef\xbb\xbf", text.as_bytes()].concat()).0, plain);
    let (_, said) = measured(&[b"caf\xe9 ", text.as_bytes()].concat());
    assert!(said.contains("not UTF-8 is replaced, in 1 place\n"), "{said}");
}
