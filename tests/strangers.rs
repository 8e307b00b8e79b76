//! What strangers bring: names that are no text, links that lead nowhere, absurd numbers, files without a tokenizer.

#[path = "support/command.rs"]
mod command;
#[path = "support/fixtures.rs"]
#[allow(dead_code, reason = "only its files are used here")]
mod fixtures;
mod support;

use command::{moewe, stderr, stdout};
use fixtures::fixture;
use moewe_engine::gguf::{Gguf, Metadata, Writer};
use moewe_engine::session::Engine;
use std::path::Path;
use std::process::Output;
use support::Tiny;
use tempfile::TempDir;

/// A folder with a tiny model.
fn place() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(&folder.path().join("tiny.gguf"));
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    moewe(folder).args(arguments).output().unwrap()
}

/// Writes a model anew with other keys.
fn with_keys(source: &Path, target: &Path, change: impl FnOnce(&mut Metadata)) {
    let gguf = Gguf::open(source).unwrap();
    let mut metadata = gguf.metadata().clone();
    change(&mut metadata);
    let tensors = gguf.tensors();
    let directory = tensors.iter().map(|t| (t.name.clone(), t.format, t.shape.clone())).collect();
    let mut writer = Writer::new(metadata, directory).unwrap().create(target).unwrap();
    tensors.iter().for_each(|tensor| writer.write_tensor(&gguf.bytes(tensor)).unwrap());
    writer.finish().unwrap();
}

#[test]
fn without_a_tokenizer_the_keys_end_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids.gguf");
    Tiny { reads: false, chats: false, ..Tiny::default() }.write(&ids);
    let flags = ["--tokens", "5", "--temp", "0", "-n", "9", "--json"];
    let answer = |file: &str| {
        let output = run(folder.path(), &[&["run", file], &flags[..]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap()
    };
    let endless = answer("ids.gguf");
    assert_eq!((endless["ids"].as_array().unwrap().len(), &endless["ending"]), (9, &"limit".into()));
    let first = endless["ids"][0].as_u64().unwrap() as u32;
    for key in ["eos", "eot", "eom"] {
        let target = folder.path().join("ends.gguf");
        with_keys(&ids, &target, |m| m.set(format!("tokenizer.ggml.{key}_token_id"), first));
        let ended = answer("ends.gguf");
        assert_eq!(
            (ended["ids"].as_array().unwrap().len(), &ended["ending"]),
            (0, &"end of text".into()),
            "{key}"
        );
    }
}

#[test]
fn positions_in_the_spelling_of_2023_and_today_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("llama-dense", Path::new(env!("CARGO_TARGET_TMPDIR")));
    let mut logits = Vec::new();
    for (name, key) in [("new", "rope.scaling.factor"), ("old", "rope.scale_linear"), ("none", "hobby")] {
        let model = folder.path().join(name);
        with_keys(&source, &model, |m| m.set(format!("llama.{key}"), 4f32));
        let out = format!("{name}.safetensors");
        let output = run(folder.path(), &["logits", name, "--tokens", "5,9,11,200,33,7", "-o", &out]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output).contains("key `llama.hobby` is not known"), name == "none");
        logits.push(std::fs::read(folder.path().join(out)).unwrap());
    }
    assert!(logits[0] == logits[1] && logits[0] != logits[2]);
}

/// A key that the converter writes and the engine does not know would be a difference between them.
/// llama.cpp's converter keeps the layers that predict further tokens, and counts them.
#[test]
fn layers_that_predict_further_tokens_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["glm4moe", "glm4-moe-lite"] {
        let plain = fixture(name, folder.path());
        let [doubled, predicting] = ["doubled.gguf", "predicting.gguf"].map(|file| folder.path().join(file));
        fixtures::rewrite(
            &plain,
            &doubled,
            |_| 0,
            |tensor| {
                let (tensor_name, format, shape, bytes) = &tensor;
                let Some(part) = tensor_name.strip_prefix("blk.2.") else { return vec![tensor] };
                let copied = (format!("blk.3.{part}"), *format, shape.clone(), bytes.clone());
                let joins = ("blk.3.nextn.eh_proj.weight".to_owned(), *format, shape.clone(), bytes.clone());
                let more = if part == "attn_output.weight" { vec![copied, joins] } else { vec![copied] };
                [vec![tensor], more].concat()
            },
        );
        with_keys(&doubled, &predicting, |m| {
            let architecture = m.require_str("general.architecture").unwrap().to_owned();
            m.set(format!("{architecture}.block_count"), 4u32);
            m.set(format!("{architecture}.nextn_predict_layers"), 1u32);
        });
        let logits = |file: &Path| {
            let engine = Engine::open(file, fixtures::options("f32")).unwrap();
            let mut session = engine.session().unwrap();
            session.extend(&[3, 1, 4, 1, 5]).unwrap();
            session.logits().to_vec()
        };
        assert_eq!(logits(&plain), logits(&predicting), "{name}");
        let doubled = Engine::open(&doubled, fixtures::options("f32")).err().map(|error| error.to_string());
        assert!(doubled.unwrap().contains("a layer below 3"), "{name}");
    }
}

#[test]
fn what_the_converter_writes_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let has_config = |folder: &std::fs::DirEntry| folder.path().join("config.json").is_file();
    let checkpoints = std::fs::read_dir(golden).unwrap().map(Result::unwrap).filter(has_config);
    let mut count = 0;
    for name in checkpoints.map(|folder| folder.file_name().into_string().unwrap()) {
        let model = fixture(&name, Path::new(env!("CARGO_TARGET_TMPDIR")));
        let output = run(folder.path(), &["logits", model.to_str().unwrap(), "--tokens", "5,9", "-o", &name]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert!(!stderr(&output).contains("is not known"), "{name}: {}", stderr(&output));
        count += 1;
    }
    assert!(count > 10, "{count} checkpoints");
}

#[test]
fn any_context_is_bounded_and_said() {
    let folder = place();
    let dense = fixture("llama-dense", Path::new(env!("CARGO_TARGET_TMPDIR")));
    for model in ["tiny.gguf", dense.to_str().unwrap()] {
        for (context, lowered) in [("18446744073709551615", true), ("9000", false)] {
            let output = run(folder.path(), &["run", model, "--tokens", "5", "-n", "2", "-c", context]);
            let said = stderr(&output);
            assert!(output.status.success(), "{model}: {said}");
            assert!(said.contains("the model was made for "), "{model}: {said}");
            assert_eq!(
                said.contains(&format!("context lowered from {context} to ")),
                lowered,
                "{model}: {said}"
            );
            assert!(!said.contains("16777216.0 TiB"), "{model}: {said}");
        }
    }
    let within = run(folder.path(), &["run", "tiny.gguf", "--tokens", "5", "-n", "2", "-c", "512"]);
    assert!(!stderr(&within).contains("was made for"), "{}", stderr(&within));
}

#[test]
fn absurd_numbers_are_errors_that_say_the_bounds() {
    let folder = place();
    let most = u64::MAX.to_string();
    for (arguments, said) in [
        (&["run", "tiny.gguf", "hi", "--batch", "0"][..], "expected 1 to 65536"),
        (&["run", "tiny.gguf", "hi", "--batch", &most], "expected 1 to 65536"),
        (&["run", "tiny.gguf", "hi", "--look-ahead", &most], "expected 0 to 1024"),
        (&["run", "tiny.gguf", "hi", "-c", "0"], "expected 1 to"),
        (&["run", "tiny.gguf", "hi", "-c", "-1"], "unexpected argument"),
        (&["run", "tiny.gguf", "hi", "-m", "99999999T"], "more memory than any machine has"),
        (&["run", "tiny.gguf", "hi", "-t", "0"], "0 is not in 1..=512"),
        (&["run", "tiny.gguf", "hi", "--experts-used", &most], "1 to 4 experts"),
        (&["bench", "tiny.gguf", "-p", &most], "expected 0 to 268435456"),
        (&["bench", "tiny.gguf", "-n", &most], "expected 0 to 268435456"),
        (&["bench", "tiny.gguf", "-p", "600", "-c", "512"], "do not fit the context of 512 positions"),
    ] {
        let output = run(folder.path(), arguments);
        let message = stderr(&output);
        assert!(!output.status.success() && message.contains(said), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    }
}

#[test]
fn more_threads_than_the_machine_has_are_not_started() {
    let folder = place();
    let all = std::thread::available_parallelism().unwrap().get();
    let output = run(folder.path(), &["run", "tiny.gguf", "hi", "-n", "1", "-t", "512"]);
    let said = stderr(&output);
    assert!(output.status.success() && said.contains(&format!("; {} threads, ", all.min(512))), "{said}");
    assert_eq!(said.contains("512 threads asked for"), all < 512, "{said}");
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_named() {
    let folder = place();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("d")).unwrap();
    for (target, link) in
        [("/gone/blob", "m.gguf"), ("/gone/blob", "d/m.gguf"), ("b.gguf", "a.gguf"), ("a.gguf", "b.gguf")]
    {
        std::os::unix::fs::symlink(target, at(link)).unwrap();
    }
    for (name, said) in [
        ("m.gguf", "m.gguf is a link to /gone/blob, which does not exist"),
        ("d/m.gguf", "d/m.gguf is a link to /gone/blob, which does not exist"),
        ("a.gguf", "a.gguf is a link to b.gguf, which leads back to it"),
    ] {
        let output = run(folder.path(), &["run", name, "-p", "x"]);
        assert!(!output.status.success() && stderr(&output).contains(said), "{name}: {}", stderr(&output));
    }
    let listed = moewe(folder.path()).arg("list").env("MOEWE_MODELS", folder.path()).output().unwrap();
    assert!(listed.status.success() && stdout(&listed).contains("tiny"), "{}", stderr(&listed));
    assert!(stderr(&listed).contains("m.gguf is a link to /gone/blob"), "{}", stderr(&listed));
    let text = run(folder.path(), &["perplexity", "tiny.gguf", "--text", "m.gguf"]);
    assert!(stderr(&text).contains("m.gguf is a link to /gone/blob"), "{}", stderr(&text));
}

/// File systems of other Unixes refuse such names.
#[cfg(target_os = "linux")]
#[test]
fn names_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = place();
    let odd = OsStr::from_bytes(b"caf\xe9.gguf");
    std::fs::copy(folder.path().join("tiny.gguf"), folder.path().join(odd)).unwrap();
    std::fs::write(folder.path().join("text"), "a little text of letters ".repeat(20)).unwrap();
    for (command, more) in [
        ("run", &["-p", "hi", "-n", "1"][..]),
        ("inspect", &["--json"]),
        ("tokenize", &["hi"]),
        ("bench", &["--load", "-r", "1"]),
        ("logits", &["--tokens", "1,2", "-o", "out"]),
        ("perplexity", &["--text", "text", "-c", "64"]),
        ("compare", &["tiny.gguf", "--text", "text", "-c", "64"]),
    ] {
        let output = moewe(folder.path()).arg(command).arg(odd).args(more).output().unwrap();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
    }
    for more in [&["--json"][..], &[]] {
        let mut list = moewe(folder.path());
        let listed = list.arg("list").args(more).env("MOEWE_MODELS", folder.path()).output().unwrap();
        assert!(listed.status.success() && stdout(&listed).contains("caf\u{fffd}"), "{}", stderr(&listed));
    }
}

/// A pipe without a writer would be waited for; it is looked at before it is opened.
#[cfg(unix)]
#[test]
fn a_pipe_is_no_model() {
    let folder = place();
    assert!(
        std::process::Command::new("mkfifo").arg(folder.path().join("pipe.gguf")).status().unwrap().success()
    );
    for arguments in [&["run", "pipe.gguf", "-p", "x"][..], &["convert", "pipe.gguf", "-o", "o.gguf"]] {
        let mut child =
            moewe(folder.path()).args(arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let patience = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() && patience.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let was_over = child.try_wait().unwrap().is_some();
        _ = child.kill();
        let output = child.wait_with_output().unwrap();
        assert!(
            was_over && stderr(&output).contains("a device or a pipe"),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}
