//! Checkpoints where a model is wanted, from outside: what is converted once and found again, what is asked, what a
//! conversion that cannot end leaves behind, and that nothing but converted models is ever removed.

#[path = "support/command.rs"]
mod command;
#[path = "support/hub.rs"]
mod hub;
#[path = "support/pulling.rs"]
mod pulling;

use command::{moewe, names, stderr, stdout};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Small, and with nothing in it that would take long.
const SMALL: &str = "qwen2-tied";
const TOKENS: [&str; 5] = ["--tokens", "1,2,3", "-n", "8", "--temp=0"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A person's machine with a checkpoint.
struct Place(tempfile::TempDir);

impl Place {
    fn with(name: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.copy(name, "checkpoint");
        place
    }

    /// A reference checkpoint as a folder of this name.
    fn copy(&self, name: &str, folder: &str) {
        fs::create_dir_all(self.path(folder)).unwrap();
        for file in names(&golden(name)).iter().filter(|file| !file.starts_with("expected")) {
            fs::write(self.path(folder).join(file), fs::read(golden(name).join(file)).unwrap()).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path(".cache/moewe/converted")
    }

    /// The models in the cache.
    fn converted(&self) -> Vec<String> {
        if !self.cache().exists() {
            return vec![];
        }
        names(&self.cache()).into_iter().filter(|name| name.ends_with(".gguf")).collect()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        moewe(self.0.path()).args(arguments).output().unwrap()
    }

    /// What a model answers to some tokens.
    fn answers(&self, model: &str, more: &[&str]) -> Output {
        self.run(&[&["run", model], &TOKENS[..], more].concat())
    }

    #[track_caller]
    fn good(&self, model: &str, more: &[&str]) -> String {
        let output = self.answers(model, more);
        assert!(output.status.success(), "{model}: {}", stderr(&output));
        stdout(&output)
    }

    #[track_caller]
    fn assert_fails(&self, arguments: &[&str], parts: &[&str]) {
        let output = self.run(arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
        parts.iter().for_each(|part| assert!(message.contains(part), "'{part}' is not in {message}"));
    }
}

/// Weights that differ from those of `file` in the last bits of a few.
fn altered(file: &Path) -> Vec<u8> {
    let mut weights = fs::read(file).unwrap();
    let middle = weights.len() / 8 * 4;
    weights[middle..middle + 4096].iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
    weights
}

/// Says whether a file is the very one of before.
#[cfg(unix)]
fn identity(path: &Path) -> (u64, std::time::SystemTime) {
    use std::os::unix::fs::MetadataExt;
    let data = path.metadata().unwrap();
    (data.ino(), data.modified().unwrap())
}

#[cfg(not(unix))]
fn identity(path: &Path) -> (u64, std::time::SystemTime) {
    let data = path.metadata().unwrap();
    (data.len(), data.modified().unwrap())
}

#[test]
fn a_checkpoint_is_converted_once_as_convert_does_it() {
    let place = Place::with(SMALL);
    let first = place.answers("checkpoint", &["--yes"]);
    assert!(first.status.success(), "{}", stderr(&first));
    let converted = place.converted();
    assert!(converted.len() == 1 && converted[0].starts_with("checkpoint-8bit-"), "{converted:?}");
    assert!(stderr(&first).contains(&converted[0]), "{}", stderr(&first));
    let before = identity(&place.cache().join(&converted[0]));
    for model in ["checkpoint", "checkpoint/model.safetensors", &converted[0], "checkpoint-8bit"] {
        let again = place.answers(model, &[]);
        assert!(again.status.success(), "{model}: {}", stderr(&again));
        assert_eq!(stdout(&again), stdout(&first), "{model}");
        assert_eq!(
            stderr(&again).contains("was converted before, at 8 bits"),
            !model.contains("8bit"),
            "{model}"
        );
    }
    let quiet = place.answers("checkpoint", &["-q"]);
    assert!(quiet.status.success() && stderr(&quiet).is_empty(), "{}", stderr(&quiet));
    assert_eq!(
        (place.converted(), identity(&place.cache().join(&converted[0]))),
        (converted.clone(), before)
    );
    assert!(place.run(&["convert", "checkpoint", "-o", "own.gguf", "--bits", "8"]).status.success());
    assert_eq!(
        fs::read(place.path("own.gguf")).unwrap(),
        fs::read(place.cache().join(&converted[0])).unwrap()
    );
    assert_eq!(place.good("own.gguf", &[]), stdout(&first));
}

#[test]
fn other_weights_or_bits_make_another_file_and_another_place_does_not() {
    let place = Place::with(SMALL);
    let first = place.good("checkpoint", &["--yes", "--bits", "16"]);
    assert_eq!(place.converted().len(), 1);
    place.copy(SMALL, "moved/elsewhere");
    assert_eq!(place.good("moved/elsewhere", &["--bits", "16"]), first);
    place.good("checkpoint", &["--yes", "--bits", "4"]);
    let converted = place.converted();
    assert!(converted.len() == 2 && converted[1].starts_with("checkpoint-4bit-"), "{converted:?}");
    let weights = place.path("checkpoint/model.safetensors");
    fs::write(&weights, altered(&weights)).unwrap();
    let source = place.path("checkpoint").canonicalize().unwrap();
    let source = source.to_str().unwrap();
    place.assert_fails(
        &[&["run", "checkpoint", "--bits", "16"], &TOKENS[..]].concat(),
        &["--yes converts it", "to 16 bits"],
    );
    place.good(source, &["--yes", "--bits", "16"]);
    assert_eq!(place.converted().len(), 3);
}

#[test]
fn pickles_and_one_of_several_weight_files() {
    let place = Place::with("moe-124m-checkpoint");
    let more = ["--yes", "--bits", "16", "-q"];
    let own = place.good("checkpoint/state_dict.pt", &more);
    assert_eq!(place.good("checkpoint", &["--bits", "16"]), own);
    place.copy("tachyon-checkpoint", "tachyon"); // its configuration is in the pickle
    place.good("tachyon", &more);
    place.copy(SMALL, "two");
    let weights = place.path("two/a.safetensors");
    fs::rename(place.path("two/model.safetensors"), &weights).unwrap();
    fs::write(place.path("two/b.safetensors"), altered(&weights)).unwrap();
    let names = || place.converted().into_iter().map(|name| name[..2].to_owned()).collect::<Vec<_>>();
    place.good("two/a.safetensors", &more);
    place.good("two/b.safetensors", &more);
    assert_eq!(names(), ["a-", "b-", "ch", "ta"]);
    place.assert_fails(&["run", "two", "--yes", "--tokens", "1"], &["several weight files", "a.safetensors"]);
}

/// With a tokenizer, and with a GGUF file beside the weights, which is another model.
#[test]
fn a_chat_speaks_with_what_a_checkpoint_became() {
    let place = Place::with(SMALL);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/moewe-mini");
    let arguments = ["--bits", "16", "-n", "2", "-t", "1", "--temp=0", "-q"];
    let chat = |model: &str, more: &[&str]| {
        let mut command = moewe(place.0.path());
        let output =
            command::fed(command.args(["chat", model]).args(arguments).args(more), "Der alte Mann\n");
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let said = chat(source.to_str().unwrap(), &["--yes"]);
    assert!(!said.trim().is_empty());
    assert_eq!(chat(source.join("model.safetensors").to_str().unwrap(), &[]), said);
    assert_eq!(place.converted().len(), 1);
    place
        .assert_fails(&["chat", source.join("moewe-mini.gguf").to_str().unwrap(), "--bits=16"], &["already"]);
}

#[test]
fn nothing_is_converted_unasked() {
    let place = Place::with(SMALL);
    for command in ["run", "chat", "serve", "bench"] {
        let source = place.path("checkpoint");
        for model in ["checkpoint", "checkpoint/model.safetensors", source.to_str().unwrap()] {
            place.assert_fails(
                &[command, model],
                &["a checkpoint", "--yes converts it to 8 bits", "moewe convert", "-o model.gguf --bits 8"],
            );
        }
    }
    assert!(!place.cache().exists());
    for (bits, part) in [("9", "levels are 2 to 8"), ("0.5", "between 1 and 32"), ("nan", "between 1 and 32")]
    {
        place.assert_fails(&["run", "checkpoint", "--bits", bits, "--yes"], &[part]);
    }
    assert!(!place.cache().exists());
}

#[test]
fn bits_are_for_checkpoints() {
    let place = Place::with(SMALL);
    assert!(place.run(&["convert", "checkpoint", "-o", "own.gguf", "--bits", "16"]).status.success());
    for model in ["own.gguf", "./own.gguf"] {
        place.assert_fails(
            &["run", model, "--bits", "4", "--yes"],
            &["a GGUF file already", "moewe convert", "--bits 4"],
        );
    }
    place.assert_fails(&["run", "moewe-mini", "--bits", "4", "-p", "x"], &["part of the program"]);
    fs::rename(place.path("own.gguf"), place.path("checkpoint/own.gguf")).unwrap();
    fs::remove_file(place.path("checkpoint/model.safetensors")).unwrap();
    place.assert_fails(&["run", "checkpoint", "--yes"], &["name a file in it: checkpoint/own.gguf"]);
    fs::remove_file(place.path("checkpoint/own.gguf")).unwrap();
    place.assert_fails(&["run", "checkpoint", "--yes"], &["no weights"]);
}

#[test]
fn converted_models_are_listed_and_only_they_are_removed() {
    let place = Place::with(SMALL);
    let more = ["--yes", "-q", "--bits"];
    for bits in ["16", "32"] {
        place.good("checkpoint", &[&more[..], &[bits]].concat());
    }
    let converted = place.converted();
    let name = |i: usize| converted[i].strip_suffix(".gguf").unwrap();
    let (one, two) = (name(0), name(1));
    let listed = stdout(&place.run(&["list"]));
    let group = listed.split("\n\n").nth(1).unwrap();
    let source = place.path("checkpoint").canonicalize().unwrap().display().to_string();
    assert!(group.starts_with("CONVERTED") && group.contains(one) && group.contains(&source), "{listed}");
    assert!(group.contains("KiB") && !listed.split("\n\n").next().unwrap().contains(one), "{listed}");
    let json: serde_json::Value = serde_json::from_slice(&place.run(&["list", "--json"]).stdout).unwrap();
    assert_eq!(json[0]["source"], serde_json::Value::Null);
    assert_eq!(json[2]["source"], source);
    // What lies there and is not ours, and what lies elsewhere under such a name.
    let elsewhere = place.path("precious-8bit-0123456789abcdef.gguf");
    for path in [&elsewhere, &place.cache().join("notes.gguf"), &place.path("mine.gguf")] {
        fs::write(path, "GGUF").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(&elsewhere, place.cache().join("link-8bit-0123456789abcdef.gguf")).unwrap();
    let before = names(&place.cache());
    let path = place.cache().join(&converted[0]);
    for wanted in [
        "notes",
        "moewe-mini",
        "mine.gguf",
        "checkpoint",
        "*",
        "",
        "link-8bit-0123456789abcdef",
        "../../../precious-8bit-0123456789abcdef",
        path.to_str().unwrap(),
    ] {
        place.assert_fails(&["list", "--yes", "--remove", one, wanted], &["is no converted model", two]);
    }
    place.assert_fails(&["list", "--remove", one], &["--yes removes", one]);
    assert_eq!(names(&place.cache()), before);
    let removed = place.run(&["list", "--remove", one, &converted[1], "--yes"]);
    assert!(removed.status.success() && stdout(&removed).lines().count() == 2, "{}", stderr(&removed));
    let left: Vec<_> = before.into_iter().filter(|name| !name.starts_with("checkpoint")).collect();
    assert_eq!(names(&place.cache()), left);
    assert!(elsewhere.exists() && place.path("checkpoint/model.safetensors").exists());
}

#[test]
fn the_folder_can_be_named_and_damage_is_an_error() {
    let place = Place::with(SMALL);
    let run = |more: &[&str]| {
        let mut command = moewe(place.0.path());
        command.env("MOEWE_CACHE", place.path("own")).args(["run", "checkpoint", "--bits", "16"]);
        command.args(TOKENS).args(more).output().unwrap()
    };
    assert!(run(&["--yes"]).status.success());
    assert!(!place.cache().exists());
    let file = names(&place.path("own/converted")).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
    let file = place.path("own/converted").join(file);
    fs::write(&file, "GGUF").unwrap();
    let output = run(&[]);
    let message = stderr(&output);
    assert!(output.status.code() == Some(1) && message.contains(file.to_str().unwrap()), "{message}");
    fs::write(place.path("checkpoint/config.json"), "{}").unwrap();
    place.assert_fails(&["run", "checkpoint", "--yes", "--tokens", "1"], &["config"]);
    fs::write(place.path("checkpoint/config.json"), "[").unwrap();
    place.assert_fails(&["run", "checkpoint", "--yes", "--tokens", "1"], &["config.json"]);
    fs::write(place.path("checkpoint/config.json"), fs::read(golden(SMALL).join("config.json")).unwrap())
        .unwrap();
    fs::write(place.path("checkpoint/model.safetensors"), [0x40, 1, 0, 0, 0, 0, 0, 0, b'{', b'"']).unwrap();
    for model in ["checkpoint", "checkpoint/model.safetensors"] {
        place.assert_fails(&["run", model, "--yes", "--tokens", "1"], &["model.safetensors", "incomplete"]);
    }
    assert_eq!(place.converted(), [""; 0]);
}

#[cfg(unix)]
mod at_a_terminal {
    use super::*;
    use rexpect::session::{PtySession, spawn_command};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const WAIT_MS: u64 = 120_000; // a loaded machine is slow, a test that fails waits that long

    fn at(mut command: Command) -> PtySession {
        command.stdin(Stdio::inherit());
        spawn_command(command, Some(WAIT_MS)).unwrap()
    }

    fn typed(place: &Place, arguments: &[&str]) -> PtySession {
        let mut command = moewe(place.0.path());
        command.args(arguments);
        at(command)
    }

    #[test]
    fn a_question_says_what_will_be_and_is_asked_once() {
        let place = Place::with(SMALL);
        let run = [&["run", "checkpoint", "--bits", "16"], &TOKENS[..]].concat();
        let mut session = typed(&place, &run);
        session.exp_string("convert checkpoint to 16 bits, 226.1 KiB into ").unwrap();
        session.exp_string(".cache/moewe/converted, where ").unwrap();
        session.exp_string(" are free? [Y/n]").unwrap();
        session.send_line("n").unwrap();
        session.exp_string("stopped").unwrap();
        session.exp_eof().unwrap();
        assert!(place.converted().is_empty());
        let mut session = typed(&place, &run);
        session.exp_string("are free? [Y/n]").unwrap();
        session.send_line("").unwrap();
        session.exp_string("converted to 16 bits").unwrap();
        let rest = session.exp_eof().unwrap();
        assert!(!rest.contains('?') && rest.contains("8 generated"), "{rest}");
        let rest = typed(&place, &run).exp_eof().unwrap();
        assert!(!rest.contains('?') && rest.contains("was converted before"), "{rest}");
        let converted = place.converted();
        let remove = ["list", "--remove", &converted[0]];
        for (answer, left) in [("", 1), ("y", 0)] {
            let mut session = typed(&place, &remove);
            session.exp_string("? [y/N]").unwrap();
            session.send_line(answer).unwrap();
            session.exp_eof().unwrap();
            assert_eq!(place.converted().len(), left);
        }
    }

    #[test]
    fn one_question_is_about_pull_and_conversion() {
        let place = pulling::Place::with(&[]);
        let (source, home) = (golden(SMALL), place.folder.path());
        for name in ["config.json", "model.safetensors"] {
            place.hub.add(name, &fs::read(source.join(name)).unwrap());
        }
        let run = [&["run", "hf:owner/repo", "--bits", "16"], &TOKENS[..]].concat();
        let mut session = at(place.command(&run));
        session.exp_string("pull hf:owner/repo: config.json and 1 more files, ").unwrap();
        session.exp_string(", and convert it to 16 bits, about 225.4 KiB more").unwrap();
        session.exp_string("are free there? [Y/n]").unwrap();
        session.send_line("n").unwrap();
        session.exp_string("stopped").unwrap();
        session.exp_eof().unwrap();
        assert!(!place.models().exists() && !home.join(".cache").exists());
        let mut session = at(place.command(&run));
        session.exp_string("? [Y/n]").unwrap();
        session.send_line("y").unwrap();
        session.exp_string("converted to 16 bits").unwrap();
        let rest = session.exp_eof().unwrap();
        assert!(!rest.contains("? ["), "{rest}");
    }

    #[test]
    fn a_conversion_that_is_stopped_leaves_nothing() {
        let place = Place::with("mixtral");
        for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
            let mut command = moewe(place.0.path());
            command.args(["run", "checkpoint", "--bits", "2", "--yes", "--tokens", "1"]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let start = Instant::now();
            while !place.cache().exists() || names(&place.cache()).is_empty() {
                assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
                assert!(start.elapsed() < Duration::from_secs(300), "nothing is written");
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
            assert_eq!(names(&place.cache()), [""; 0]);
        }
    }
}

#[test]
fn a_repository_without_a_model_is_pulled_and_converted() {
    let place = pulling::Place::with(&[("README.md", b"x")]);
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        place.hub.add(name, &fs::read(golden(SMALL).join(name)).unwrap());
    }
    let run = |more: &[&str]| {
        place
            .command(&[&["run", "hf:owner/repo", "--bits", "16"], &TOKENS[..], more].concat())
            .output()
            .unwrap()
    };
    place.assert_fails(&run(&[]), &["hf:owner/repo is not on this machine", "--yes"]);
    let first = run(&["--yes"]);
    assert!(first.status.success(), "{}", stderr(&first));
    assert_eq!(names(&place.models()), ["config.json", "generation_config.json", "model.safetensors"]);
    place.hub.seen();
    let again = run(&[]);
    assert!(stderr(&again).contains("hf:owner/repo was converted before"), "{}", stderr(&again));
    // The checkpoint is no longer needed.
    fs::remove_dir_all(place.models()).unwrap();
    let without = run(&[]);
    assert_eq!((stdout(&again), stdout(&without)), (stdout(&first), stdout(&first)), "{}", stderr(&without));
    assert!(place.hub.seen().is_empty());
    let listed = stdout(&place.command(&["list"]).output().unwrap());
    assert!(listed.lines().last().unwrap().ends_with("hf:owner/repo"), "{listed}");
}

#[test]
fn bits_take_a_repositorys_checkpoint_and_refuse_its_models() {
    let place = pulling::Place::new();
    let run = ["run", "hf:owner/repo", "--bits", "16", "--yes", "--tokens", "1", "-n", "1"];
    place.assert_fails(
        &place.command(&run).output().unwrap(),
        &["hf:owner/repo means a GGUF file", "leave --bits 16 out"],
    );
    for name in ["config.json", "model.safetensors"] {
        place.hub.add(name, &fs::read(golden(SMALL).join(name)).unwrap());
    }
    let output = place.command(&run).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(&place.models()), ["config.json", "model.safetensors"]);
}
