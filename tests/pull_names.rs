//! Names of remote models from outside: what they pull, what commands make of them, and what is here already.

#[path = "support/command.rs"]
mod command;
#[path = "support/hub.rs"]
mod hub;
#[path = "support/pulling.rs"]
mod pulling;
mod support;

use command::{names, stderr, stdout};
use hub::{Hub, sha256};
use pulling::{FILE, Place, model};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use support::Tiny;

#[test]
fn a_model_arrives_once_and_runs_by_its_remote_name() {
    let place = Place::new();
    place.hub.add("m-Q8_0.gguf", b"GGUF");
    let dry = place.pull(&["hf:owner/repo", "--dry-run"]).output().unwrap();
    assert!(
        dry.status.success() && stdout(&dry).contains(FILE) && stdout(&dry).contains("sha256:"),
        "{}",
        stderr(&dry)
    );
    assert!(!place.models().exists());
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    place.assert_whole(&output);
    assert_eq!(stdout(&output).trim(), place.file().to_str().unwrap());
    let said = stderr(&output);
    assert!(said.contains("Q4_K_M, which is taken where none is named") && said.contains("m-Q8_0"), "{said}");
    assert!(said.contains("moewe chat hf:owner/repo"), "{said}");
    place.hub.seen();
    let again = place.pull(&["hf:owner/repo"]).output().unwrap();
    place.assert_whole(&again);
    assert!(stderr(&again).contains("here already"), "{}", stderr(&again));
    assert!(place.hub.seen().iter().all(|seen| !seen.path.starts_with("/signed")));
    for name in ["hf:owner/repo", "hf.co/owner/repo:Q4_K_M", "hf:owner/repo/m-Q4_K_M.gguf"] {
        let shown = place.command(&["inspect", name]).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(shown.status.success(), "{name}: {}", stderr(&shown));
    }
    fs::write(place.file(), "GGUF but other").unwrap();
    let other = place.pull(&["hf:owner/repo"]).output().unwrap();
    assert!(stderr(&other).contains("is another file of 14 bytes"), "{}", stderr(&other));
    assert_eq!(fs::read(place.file()).unwrap(), b"GGUF but other");
}

#[test]
fn events_are_json() {
    let place = Place::new();
    let output = place.pull(&["hf:owner/repo:q4_k_m", "--json"]).output().unwrap();
    place.assert_whole(&output);
    let text = stdout(&output);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["event"] == "begin" && event["file"] == FILE));
    let last = events.last().unwrap();
    assert_eq!((&last["event"], last["path"].as_str()), (&"done".into(), place.file().to_str()));
}

#[test]
fn other_registries_and_plain_addresses() {
    let place = Place::with(&[("tiny", model(3)), ("ms-Q4_K_M.gguf", model(3)), (FILE, b"<html>")]);
    let models = place.folder.path().join(".local/share/moewe/models");
    let (port, url) = (place.hub.port(), place.hub.url());
    let good = |arguments: &[&str]| {
        let output = place.pull(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        let path = stdout(&output).trim().to_owned();
        assert!(fs::read(&path).unwrap() == model(3), "{path}");
        (PathBuf::from(path), stderr(&output))
    };
    let (path, said) = good(&[&format!("ollama:127.0.0.1:{port}/library/tiny")]);
    assert!(path.ends_with("ollama-library/tiny/tiny-latest.gguf") && said.contains("settings"), "{said}");
    let (path, _) = good(&["ms:owner/repo/ms-Q4_K_M.gguf"]);
    assert_eq!(path, models.join("owner/repo/ms-Q4_K_M.gguf"));
    let (digest, address) = (sha256(model(3)), format!("{url}/plain/ms-Q4_K_M.gguf"));
    let to = place.folder.path().join("elsewhere");
    let (path, _) = good(&[&address, "--sha256", &digest, "--to", to.to_str().unwrap()]);
    assert_eq!(path, to.join("ms-Q4_K_M.gguf"));
    let (_, said) = good(&[&address]);
    assert!(said.contains("--sha256 would"), "{said}");
    fs::remove_file(models.join("ms-Q4_K_M.gguf")).unwrap();
    let bad = |arguments: &[&str], part: &str| {
        let output = place.pull(arguments).output().unwrap();
        place.assert_fails(&output, &[part]);
        assert_eq!(names(&models), ["ollama-library", "owner"], "{arguments:?}");
    };
    bad(&[&address, "--sha256", &"0".repeat(64)], "expected sha256:0000");
    bad(&[&address, "--sha256", "0"], "64 hexadecimal digits");
    bad(&[&format!("{url}/plain/{FILE}")], "expected a GGUF file, found a web page");
    bad(&[&format!("{url}/plain/absent.gguf")], "404");
    bad(&["hf:owner/repo", "--sha256", &digest], "--sha256 is for plain addresses");
}

#[test]
fn a_registry_gives_tokens_at_its_own_host_only() {
    let (place, other) = (Place::with(&[("tiny", model(3))]), Hub::start(&[]));
    let name = format!("ollama:127.0.0.1:{}/library/tiny", place.hub.port());
    place.hub.realm(&format!("{}/token", other.url()));
    place.assert_fails(&place.pull(&[&name]).output().unwrap(), &["a token from another host", "not asked"]);
    assert!(other.seen().is_empty());
    place.hub.realm(&format!("{}/token", place.hub.url()));
    let output = place.pull(&[&name]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(place.hub.seen().iter().any(|seen| seen.path == "/token?service=s&scope=pull%3Ax"));
}

#[test]
fn commands_take_remote_names() {
    let place = Place::with(&[]);
    let tiny = place.folder.path().join("tiny.gguf");
    Tiny::default().write(&tiny);
    place.hub.add(FILE, &fs::read(&tiny).unwrap());
    let run = ["run", "hf:owner/repo:Q4_K_M", "--prompt", "x", "-n", "4", "-q"];
    let output = place.command(&run).output().unwrap();
    place.assert_fails(
        &output,
        &["hf:owner/repo:Q4_K_M is not on this machine; get it first: moewe pull hf:owner"],
    );
    let output = place.command(&run).arg("--yes").output().unwrap();
    assert!(output.status.success() && place.file().exists(), "{}", stderr(&output));
    place.hub.seen();
    assert!(place.command(&run).output().unwrap().status.success());
    assert!(place.hub.seen().is_empty());
}

#[test]
fn a_checkpoint_is_pulled_and_converted() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mixtral");
    let place = Place::with(&[("README.md", b"x")]);
    for entry in fs::read_dir(golden).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        place.hub.add(entry.file_name().to_str().unwrap(), &fs::read(entry.path()).unwrap());
    }
    let convert = ["convert", "hf:owner/repo", "-o", "m.gguf", "--format", "F32", "--yes"];
    let output = place.command(&convert).output().unwrap();
    assert!(output.status.success() && place.folder.path().join("m.gguf").exists(), "{}", stderr(&output));
    let pulled = names(&place.models());
    assert!(
        pulled.contains(&"config.json".to_owned()) && !pulled.contains(&"README.md".to_owned()),
        "{pulled:?}"
    );
}

#[test]
fn what_other_programs_have_is_listed_and_run_where_it_is() {
    let place = Place::with(&[]);
    let home = place.folder.path();
    let tiny = home.join("tiny.gguf");
    Tiny::default().write(&tiny);
    let bytes = fs::read(&tiny).unwrap();
    let digest = sha256(&bytes);
    let put = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
        fs::write(home.join(path), bytes).unwrap();
    };
    let layer = format!(
        r#"{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{digest}","size":1}}"#
    );
    put(
        ".ollama/models/manifests/registry.ollama.ai/library/tiny/latest",
        format!(r#"{{"layers":[{layer}]}}"#).as_bytes(),
    );
    put(&format!(".ollama/models/blobs/sha256-{digest}"), &bytes);
    put(".cache/huggingface/hub/models--o--r/refs/main", b"abc");
    put(".cache/huggingface/hub/models--o--r/snapshots/abc/r-Q8_0.gguf", &bytes);
    put(".lmstudio/models/o/s/s-Q8_0.gguf", &bytes);
    let listed = place.command(&["list", "--all", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_str(&stdout(&listed)).unwrap();
    let found: Vec<_> =
        listed.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(found, ["moewe-mini", "hf:o/r/r-Q8_0.gguf", "hf:o/s/s-Q8_0.gguf", "ollama:tiny:latest"]);
    let plain = place.command(&["list", "--json"]).output().unwrap();
    assert!(!stdout(&plain).contains("ollama"));
    for name in ["ollama:tiny", "hf:o/r", "hf:o/s:Q8_0"] {
        let run = ["run", name, "--prompt", "x", "-n", "4", "-q"];
        let output = place.command(&run).output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
    }
    assert!(place.hub.seen().is_empty());
    assert_eq!(names(home), [".cache", ".lmstudio", ".ollama", "tiny.gguf"]);
}

#[test]
fn what_others_have_under_its_digest_is_copied_and_checked() {
    for (folder, prefix) in
        [(".ollama/models/blobs", "sha256-"), (".cache/huggingface/hub/models--other--name/blobs", "")]
    {
        let place = Place::new();
        let blobs = place.folder.path().join(folder);
        let blob = blobs.join(format!("{prefix}{}", sha256(model(3))));
        fs::create_dir_all(&blobs).unwrap();
        let pull = || {
            place.hub.seen();
            let output = place.pull(&["hf:owner/repo"]).output().unwrap();
            place.assert_whole(&output);
            let fetched = place.hub.seen().iter().any(|seen| seen.path.starts_with("/signed"));
            (stderr(&output).contains("copied from"), fetched)
        };
        fs::write(&blob, model(3)).unwrap();
        assert_eq!(pull(), (true, false), "{folder}");
        let written = fs::OpenOptions::new().append(true).open(place.file()).and_then(|mut file| {
            use std::io::Write;
            file.write_all(b"ours only")
        });
        written.unwrap();
        assert!(fs::read(&blob).unwrap() == model(3), "the other's file is another");
        // Of the right length and name, and of other bytes.
        fs::remove_file(place.file()).unwrap();
        let mut other = model(3).to_vec();
        other[1 << 20] ^= 1;
        fs::write(&blob, &other).unwrap();
        assert_eq!(pull(), (false, true), "{folder}");
        assert!(fs::read(&blob).unwrap() == other);
        // Of another length it is not even read.
        fs::remove_file(place.file()).unwrap();
        fs::write(&blob, b"GGUF").unwrap();
        assert_eq!(pull(), (false, true), "{folder}");
        assert_eq!(names(&blobs).len(), 1);
    }
}

#[test]
fn the_table_of_remote_models_is_computed() {
    let place = Place::with(&[]);
    let output = place.command(&["list", "--remote"]).output().unwrap();
    assert!(stdout(&output).contains("moewe chat hf:"), "{}", stdout(&output));
    assert!(stderr(&output).contains("computed from the published shapes"), "{}", stderr(&output));
    let output = place.command(&["list", "--remote", "--json"]).output().unwrap();
    let table: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let models = table["models"].as_array().unwrap();
    assert!(
        models.len() >= 10 && models.iter().all(|model| model["memory"].as_u64() > model["bytes"].as_u64())
    );
}

#[cfg(unix)]
#[test]
fn a_person_is_asked_once() {
    let place = Place::with(&[]);
    let tiny = place.folder.path().join("tiny.gguf");
    Tiny::default().write(&tiny);
    place.hub.add(FILE, &fs::read(&tiny).unwrap());
    let ask = |answer: &str| {
        let mut command = place.command(&["run", "hf:owner/repo", "--prompt", "x", "-n", "4"]);
        command.stdin(std::process::Stdio::inherit()); // the terminal's
        let mut terminal = rexpect::session::spawn_command(command, Some(20_000)).unwrap();
        let asked = terminal.exp_string("[Y/n]").unwrap();
        assert!(
            asked.contains("pull hf:owner/repo: m-Q4_K_M.gguf") && asked.contains("free there"),
            "{asked}"
        );
        terminal.send_line(answer).unwrap();
        terminal.exp_eof().unwrap()
    };
    assert!(!ask("n").contains("[Y/n]") && !place.file().exists());
    let said = ask("");
    assert!(!said.contains("[Y/n]") && place.file().exists(), "{said}");
}
