//! `moewe pull` against a hub on this machine that does everything wrong that a hub can: what arrives is whole or is not
//! there, what has arrived is not fetched again, and secrets and files stay where they belong.

#[path = "support/command.rs"]
mod command;
#[path = "support/hub.rs"]
mod hub;
#[path = "support/pulling.rs"]
mod pulling;

use command::{names, stderr};
use hub::{Fault, Hub};
use moewe_engine::gguf::Metadata;
use pulling::{FILE, Place, gguf, model};
use serde_json::Value;
use std::fs;
#[cfg(unix)]
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} never came");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let place = Place::with(&[(FILE, model(24))]);
    place.hub.fault(Fault::Slow(256), 1000);
    let mut child =
        place.pull(&["hf:owner/repo"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let part = place.models().join(format!("{FILE}.part"));
    wait_until("the middle", || part.metadata().is_ok_and(|data| data.len() > 13 << 20));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.file().exists());
    let arrived = part.metadata().unwrap().len();
    place.hub.mend();
    place.hub.seen();
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read(place.file()).unwrap() == model(24), "other bytes");
    let starts: Vec<_> =
        place.hub.seen().iter().filter_map(|seen| seen.range).map(|range| range.0 as u64).collect();
    assert_eq!(starts.iter().filter(|&&start| start == 0).count(), 0, "{starts:?}");
    assert!(starts.iter().all(|start| start + (8 << 20) >= arrived), "{starts:?} of {arrived}");
    assert_eq!(names(&place.models()), [FILE]);
}

#[test]
fn ranges_that_a_killed_pull_has_written_down_are_not_asked_for_again() {
    let place = Place::with(&[(FILE, model(24))]);
    let in_ranges = ["hf:owner/repo", "--range-size", "3000000", "--parallel-from", "4000000", "--jobs", "3"];
    place.hub.fault(Fault::Slow(64), 1000);
    let mut child = place.pull(&in_ranges).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let state = place.models().join(format!("{FILE}.part.json"));
    let known = || -> u64 {
        let text = fs::read(&state).unwrap_or_default();
        let state: Value = serde_json::from_slice(&text).unwrap_or_default();
        let ranges = state["done"].as_array().cloned().unwrap_or_default();
        ranges.iter().map(|range| range["end"].as_u64().unwrap() - range["start"].as_u64().unwrap()).sum()
    };
    wait_until("the middle", || known() > 8 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let known = known();
    place.hub.mend();
    place.hub.seen();
    let output = place.pull(&in_ranges).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read(place.file()).unwrap() == model(24), "other bytes");
    let ranges = place.hub.seen().into_iter().filter(|seen| seen.path.starts_with("/signed"));
    let asked: usize =
        ranges.map(|seen| seen.range.map_or(0, |(start, last)| last.unwrap() + 1 - start)).sum();
    assert_eq!(asked as u64 + known, model(24).len() as u64);
}

#[cfg(unix)]
#[test]
fn a_pull_that_is_asked_to_stop_keeps_what_has_arrived() {
    let place = Place::new();
    place.hub.fault(Fault::Slow(64), 1);
    let child = place.pull(&["hf:owner/repo"]).stderr(Stdio::piped()).spawn().unwrap();
    let part = place.models().join(format!("{FILE}.part"));
    wait_until("the middle", || part.metadata().is_ok_and(|data| data.len() > 1 << 20));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), place.file().exists()), (Some(143), false), "{}", stderr(&output));
    place.hub.seen();
    place.assert_whole(&place.pull(&["hf:owner/repo"]).output().unwrap());
    let first = place.hub.seen().iter().find_map(|seen| seen.range).unwrap();
    assert!(first.0 >= 1 << 20, "{first:?}");
}

#[test]
fn passing_faults_pass() {
    for (fault, times) in [
        (Fault::CutAfter(200_000), 3),
        (Fault::Broken, 2),
        (Fault::WrongContentRange, 2),
        (Fault::Expired, 2),
        (Fault::Stalls, 1),
        (Fault::OtherEtag, 2),
        (Fault::WrongBytes, 1),
        (Fault::IgnoresRange, 1000),
    ] {
        for in_ranges in [false, true] {
            let place = Place::new();
            place.hub.fault(fault, times);
            let mut command = if in_ranges { place.pull_in_ranges() } else { place.pull(&["hf:owner/repo"]) };
            let output = command.output().unwrap();
            assert!(output.status.success(), "{fault:?} {in_ranges}: {}", stderr(&output));
            place.assert_whole(&output);
            let is_told = !stderr(&output).is_empty();
            assert!(is_told, "{fault:?}");
        }
    }
}

#[test]
fn ranges_go_side_by_side_and_each_byte_once() {
    let place = Place::new();
    let output = place.pull_in_ranges().output().unwrap();
    place.assert_whole(&output);
    let mut ranges: Vec<_> =
        place.hub.seen().iter().filter(|s| s.path.starts_with("/signed")).filter_map(|s| s.range).collect();
    ranges.sort_unstable();
    assert!(ranges.len() > 5 && ranges.windows(2).all(|pair| pair[0].1 == Some(pair[1].0 - 1)), "{ranges:?}");
}

#[test]
fn a_busy_server_is_given_the_time_it_asks_for() {
    let place = Place::new();
    place.hub.fault(Fault::Busy, 1);
    let start = Instant::now();
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    place.assert_whole(&output);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(stderr(&output).contains("429"), "{}", stderr(&output));
}

#[test]
fn what_does_not_pass_is_told() {
    for (fault, parts) in [
        (Fault::SizeLie, &["bytes were promised, the server has"][..]),
        (Fault::WrongBytes, &["expected sha256:", "found sha256:", "twice, nothing is kept"]),
        (Fault::RedirectLoop, &["more than 10 redirects"]),
        (Fault::Broken, &["500", "tried 6 times", "the same command goes on"]),
        (Fault::WrongContentRange, &["got 'bytes 1-", "tried 6 times"]),
        (Fault::Expired, &["the signed address is refused (403)"]),
    ] {
        let place = Place::new();
        place.hub.fault(fault, 1000);
        let output = place.pull(&["hf:owner/repo"]).output().unwrap();
        place.assert_fails(&output, parts);
        assert!(names(&place.models()).is_empty(), "{fault:?}: {:?}", names(&place.models()));
    }
    let place = Place::new();
    place.hub.fault(Fault::Stalls, 1000);
    let mut command = place.command(&["pull", "hf:owner/repo", "--pause", "1", "--stall", "100"]);
    place.assert_fails(&command.output().unwrap(), &["no byte for 100ms"]);
}

#[test]
fn the_token_stays_with_its_host() {
    let (place, other) = (Place::new(), Hub::start(&[(FILE, model(3))]));
    place.hub.gate();
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    place.assert_fails(&output, &["gated", &format!("{}/owner/repo", place.hub.url()), "HF_TOKEN"]);
    place.hub.fault(Fault::RedirectTo(other.port()), 1000);
    place.hub.seen();
    let output = place.pull(&["hf:owner/repo"]).env("HF_TOKEN", "hf_secret").output().unwrap();
    place.assert_whole(&output);
    assert!(place.hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    let there = other.seen();
    assert!(!there.is_empty() && there.iter().all(|seen| seen.authorization.is_none()), "{there:?}");
    assert!(!stderr(&output).contains("hf_secret") && !stderr(&output).contains("signature"));
    // A file of a token, and no token for other kinds of names.
    fs::remove_file(place.file()).unwrap();
    let file = place.folder.path().join("token");
    fs::write(&file, "hf_file\n").unwrap();
    let output = place.pull(&["hf:owner/repo", "--token-file", file.to_str().unwrap()]).output().unwrap();
    place.assert_whole(&output);
    place.hub.seen();
    let address = format!("{}/plain/{FILE}", place.hub.url());
    let output = place.pull(&[&address]).env("HF_TOKEN", "hf_secret").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(place.hub.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn names_cannot_leave_the_folder() {
    let place = Place::with(&[("../../x-Q4_K_M.gguf", b"GGUF")]);
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    place.assert_fails(&output, &["name that is not taken"]);
    let layer = r#"{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:../../x","size":4}"#;
    place.hub.raw("/v2/library/tiny/manifests/latest", format!(r#"{{"layers":[{layer}]}}"#));
    let name = format!("ollama:127.0.0.1:{}/library/tiny", place.hub.port());
    place.assert_fails(
        &place.pull(&[&name]).output().unwrap(),
        &["the digest 'sha256:../../x'", "64 hexadecimal"],
    );
    for name in
        ["hf:owner/../repo", "hf:owner/repo/../../x.gguf", "http://example.org/x.gguf", "hf:owner/repo:../x"]
    {
        let output = place.pull(&[name]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
    }
    #[cfg(unix)]
    {
        let place = Place::new();
        fs::create_dir_all(place.models().parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(place.folder.path(), place.models()).unwrap();
        place.assert_fails(&place.pull(&["hf:owner/repo"]).output().unwrap(), &["leads out of", "--to"]);
    }
}

#[test]
fn lists_without_end_are_not_read() {
    let place = Place::new();
    place.hub.raw("/v2/library/tiny/manifests/latest", vec![b' '; 5 << 20]);
    place.hub.raw("/api/models/owner/repo/tree/main", vec![b' '; 17 << 20]);
    let name = format!("ollama:127.0.0.1:{}/library/tiny", place.hub.port());
    for name in [name.as_str(), "hf:owner/repo"] {
        place.assert_fails(&place.pull(&[name]).output().unwrap(), &["the answer is longer than"]);
    }
    let place = Place::new();
    let entry = r#"{"type":"file","path":"a","size":1},"#;
    let many = format!("[{}]", entry.repeat(100_001).trim_end_matches(','));
    place.hub.raw("/api/models/owner/repo/tree/main", many);
    place.assert_fails(&place.pull(&["hf:owner/repo"]).output().unwrap(), &["more than 100000 files"]);
    let place = Place::new();
    ["b", "c", "d", "e"].iter().for_each(|name| place.hub.add(&format!("{name}-F16.gguf"), b"GGUF"));
    place.hub.page(2);
    place.assert_whole(&place.pull(&["hf:owner/repo:Q4_K_M"]).output().unwrap());
}

#[test]
fn what_is_not_there_names_what_is() {
    let place = Place::new();
    for (name, parts) in [
        ("hf:owner/repo/m-Q4_K.gguf", &["there is no m-Q4_K.gguf; near it are m-Q4_K_M.gguf"][..]),
        ("hf:owner/repo:Q8_0", &["nothing is called Q8_0; there are m-Q4_K_M (0.0 GB)"]),
        ("hf:owner/absent", &["hf:owner/absent: there is no such repository or revision (main)"]),
        ("hf:owner/repo@x", &["expected OWNER/REPO"]),
        ("repo", &["expected hf:OWNER/REPO"]),
    ] {
        place.assert_fails(&place.pull(&[name]).output().unwrap(), parts);
    }
    let output = place.pull(&["hf:owner/repo", "--offline"]).output().unwrap();
    place.assert_fails(&output, &["not on this machine"]);
    assert_eq!(place.hub.seen().iter().filter(|seen| seen.method == "HEAD").count(), 0);
}

#[test]
fn a_disk_without_room_is_noticed_before_the_first_byte() {
    let place = Place::new();
    let digest = "a".repeat(64);
    let layer = format!(
        r#"{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{digest}","size":{}}}"#,
        1u64 << 60
    );
    place.hub.raw("/v2/library/tiny/manifests/latest", format!(r#"{{"layers":[{layer}]}}"#));
    let name = format!("ollama:127.0.0.1:{}/library/tiny", place.hub.port());
    place.assert_fails(&place.pull(&[&name]).output().unwrap(), &["are free", "more are needed", "--to"]);
    assert!(place.hub.seen().iter().all(|seen| !seen.path.contains("blobs")));
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_what_has_arrived() {
    let place = Place::new();
    let command = place.pull(&["hf:owner/repo"]);
    let mut shell = Command::new("sh");
    // Blocks of 512 bytes, or of 1024 where sh is bash.
    shell
        .args(["-c", "ulimit -f 2048; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    shell.current_dir(place.folder.path());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    place.assert_fails(
        &shell.output().unwrap(),
        &["no room for the rest", "more bytes are needed", "goes on"],
    );
    let kept = fs::metadata(place.models().join(format!("{FILE}.part"))).unwrap().len();
    assert!(kept >= 1 << 19, "{kept}");
    place.hub.seen();
    place.assert_whole(&place.pull(&["hf:owner/repo"]).output().unwrap());
    let first = place.hub.seen().iter().find_map(|seen| seen.range).unwrap();
    assert!(first.0 >= 1 << 19, "{first:?}");
}

#[test]
fn two_pulls_of_one_file_share_it() {
    let place = Place::new();
    place.hub.fault(Fault::Slow(32), 1000);
    let start =
        || place.pull(&["hf:owner/repo"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (first, second) = (start(), start());
    for child in [first, second] {
        place.assert_whole(&child.wait_with_output().unwrap());
    }
    let sent = place.hub.seen().iter().filter(|seen| seen.path.starts_with("/signed")).count();
    assert_eq!(sent, 1);
}

#[test]
fn a_split_model_is_there_with_all_parts_or_not_at_all() {
    let part = |number: u16| {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        [("split.no", number), ("split.count", 2)].iter().for_each(|&(key, value)| metadata.set(key, value));
        gguf(metadata, 1)
    };
    let name = |number: u16| format!("m-Q4_K_M-{:05}-of-00002.gguf", number + 1);
    let (first, second) = (part(0), part(1));
    let path = |number| format!("Q4_K_M/{}", name(number));
    let place = Place::with(&[(&path(0), &first), (&path(1), &second)]);
    place.hub.fault(Fault::Slow(1024), 1);
    place.hub.fault(Fault::Broken, 1000);
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(names(&place.models()).iter().all(|name| name.contains(".part")), "{:?}", names(&place.models()));
    place.hub.mend();
    place.hub.seen();
    let output = place.pull(&["hf:owner/repo"]).output().unwrap();
    // Both parts hold a tensor of the same name, which is what is wrong with this model, and all.
    assert_eq!(names(&place.models()), [name(0), name(1)], "{}", stderr(&output));
    assert!(fs::read(place.models().join(name(1))).unwrap() == second);
    assert_eq!(place.hub.seen().iter().filter(|seen| seen.path.starts_with("/signed")).count(), 1);
}
