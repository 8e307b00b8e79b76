//! The page at `/` and what it is made of: who gets it, with which headers, how large it is, and that it holds nothing
//! that its own policy forbids. `tests/page/` looks at it with a browser.

use super::serving::{Reply, Serving, command};
use flate2::read::GzDecoder;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
const MOST_BYTES: usize = 250_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/page")
}

/// The files that a browser gets, by their names in the folder.
fn files() -> Vec<(String, String)> {
    let (mut folders, mut files) = (vec![folder()], vec![]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            let ending = entry.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_owned();
            if entry.is_dir() {
                folders.push(entry);
            } else if ["html", "css", "js", "svg"].contains(&ending.as_str()) {
                let name = entry.strip_prefix(folder()).unwrap().to_string_lossy().replace('\\', "/");
                files.push((name, fs::read_to_string(&entry).unwrap()));
            }
        }
    }
    files
}

fn front(serving: &Serving, headers: &[(&str, &str)]) -> Reply {
    serving.ask("GET", "/", headers, "")
}

#[test]
fn browsers_get_a_page_and_others_a_line() {
    let serving = Serving::begin(command(), &[]);
    let page = front(&serving, &[HTML]);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>"));
    for accept in [&[][..], &[("accept", "*/*")], &[("accept", "application/json")]] {
        let reply = front(&serving, accept);
        assert_eq!((reply.status, reply.text().as_str()), (200, "Möwe is running\n"), "{accept:?}");
        assert!(reply.header("content-type").unwrap().starts_with("text/plain"));
        assert_eq!(reply.header("vary"), Some("accept"));
    }
    let head = serving.ask("HEAD", "/", &[HTML], "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(page.body.len().to_string().as_str()));
    assert_eq!(serving.ask("POST", "/page/app.js", &[], "{}").status, 405);
    let without = Serving::begin(command(), &["--no-page"]);
    assert_eq!(front(&without, &[HTML]).text(), "Möwe is running\n");
    assert_eq!(without.get("/page/app.js").status, 404);
}

#[test]
fn every_file_comes_with_the_policy_and_once() {
    let serving = Serving::begin(command(), &[]);
    let mut total = 0;
    for (name, text) in files() {
        let path = format!("/page/{name}");
        let reply = serving.get(&path);
        assert_eq!(reply.status, 200, "{name}");
        assert_eq!(reply.text(), text, "{name}");
        total += text.len();
        let policy = reply.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|known| known == rule), "{name}: {rule}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        let tag = reply.header("etag").unwrap();
        let again = serving.ask("GET", &path, &[("if-none-match", &format!("\"x\", {tag}"))], "");
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(tag)), "{name}");
        assert_eq!(serving.ask("GET", &path, &[("if-none-match", "\"other\"")], "").status, 200);
        let packed = serving.ask("GET", &path, &[("accept-encoding", "br, gzip;q=0.8")], "");
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{name}");
        let mut unpacked = String::new();
        GzDecoder::new(&packed.body[..]).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, text, "{name}");
    }
    assert!(total <= MOST_BYTES, "the page has {total} bytes");
}

#[test]
fn only_the_pages_own_files_are_there() {
    let serving = Serving::begin(command(), &[]);
    for path in [
        "/page/",
        "/page/mod.rs",
        "/page/vendor/README.md",
        "/page/../mod.rs",
        "/page/%2e%2e/mod.rs",
        "/page/..%2f..%2fgate.rs",
        "/page//etc/passwd",
    ] {
        assert_eq!(serving.get(path).status, 404, "{path}");
    }
}

/// What stands between `before` and the next of `ends`, each time.
fn between<'t>(text: &'t str, before: &'t str, ends: &'t [char]) -> impl Iterator<Item = &'t str> {
    text.split(before).skip(1).map(move |rest| rest.split(ends).next().unwrap_or_default())
}

#[test]
fn nothing_is_named_that_is_not_there() {
    let files = files();
    let known: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let mut named = BTreeSet::from(["index.html".to_owned()]);
    for (name, text) in files.iter().filter(|(name, _)| !name.starts_with("vendor/")) {
        if name.ends_with(".html") {
            for file in between(text, "src=\"", &['"']).chain(between(text, "href=\"", &['"'])) {
                if let Some(id) = file.strip_prefix('#') {
                    assert!(text.contains(&format!("id=\"{id}\"")), "{name} lacks #{id}");
                } else {
                    named.insert(file.strip_prefix("page/").unwrap_or(file).to_owned());
                }
            }
        }
        if name.ends_with(".js") {
            named.extend(between(text, "\"./", &['"']).map(str::to_owned));
        }
    }
    let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    assert_eq!(named, known);
    // Drawings, elements and words are asked for by name as well.
    let page = fs::read_to_string(folder().join("index.html")).unwrap();
    let words = fs::read_to_string(folder().join("i18n.js")).unwrap();
    let (english, german) = words.split_once("  de: {").unwrap();
    let has_word = |key: &str| [english, german].iter().all(|part| part.contains(&format!(" {key}: \"")));
    for (name, text) in files.iter().filter(|(name, _)| !name.starts_with("vendor/")) {
        for id in between(text, "byId(\"", &['"']) {
            assert!(page.contains(&format!("id=\"{id}\"")), "{name}: there is no #{id}");
        }
        for icon in between(text, "icon(\"", &['"']).chain(between(text, "iconButton(\"", &['"'])) {
            assert!(page.contains(&format!("id=\"i-{icon}\"")), "{name}: there is no drawing {icon}");
        }
        let calls = between(text, " t(\"", &['"']).chain(between(text, "(t(\"", &['"']));
        let attributes = ["data-t=\"", "data-label=\"", "data-hint=\""];
        for key in calls.chain(attributes.iter().flat_map(|start| between(text, start, &['"']))) {
            assert!(has_word(key), "{name}: {key} is not said in both languages");
        }
    }
}

#[test]
fn nothing_stands_inline_and_nothing_becomes_markup() {
    for (name, text) in files().into_iter().filter(|(name, _)| !name.starts_with("vendor/")) {
        if name.ends_with(".html") {
            assert!(!text.contains("<style") && !text.contains(" style="), "{name}");
            assert!(between(&text, "<script", &['>']).all(|tag| tag.contains("src=")), "{name}");
            let handlers = between(&text, " on", &[' ', '>']).filter(|rest| rest.contains("=\""));
            assert_eq!(handlers.count(), 0, "{name}");
        }
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
            "cssText",
            "setAttribute(\"style\"",
            "http://127",
            "@import",
            "url(http",
        ] {
            assert!(!text.contains(forbidden), "{name}: {forbidden}");
        }
    }
}

#[test]
fn other_peoples_files_are_what_they_were() {
    let table = fs::read_to_string(folder().join("vendor/README.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| file"));
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split('|').map(str::trim).collect()).collect();
    let listed: BTreeSet<&str> = rows.iter().map(|row| row[1]).collect();
    let known = files().into_iter().filter_map(|(name, _)| Some(name.strip_prefix("vendor/")?.to_owned()));
    assert_eq!(listed.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), known.collect());
    for row in rows {
        let bytes = fs::read(folder().join("vendor").join(row[1])).unwrap();
        let hash: String =
            digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, row[4], "{}", row[1]);
        let licence = row[3].split(['(', ')']).nth(1).unwrap();
        assert!(folder().join("vendor").join(licence).is_file(), "{licence}");
    }
}

#[test]
fn the_page_needs_no_key_and_what_it_asks_for_does() {
    let serving = Serving::start(&["--api-key", "a-key-of-sixteen"]);
    assert_eq!(front(&serving, &[HTML]).status, 200);
    assert_eq!(serving.get("/page/app.js").status, 200);
    assert_eq!(serving.get("/v1/models").status, 200);
    assert_eq!(serving.get("/v1/moewe/experts").status, 401);
    assert_eq!(serving.post("/v1/completions", &json!({ "prompt": "A" })).status, 401);
    // A link on another site leads to the page and to nothing else.
    let visit = [HTML, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    assert_eq!(front(&serving, &visit).status, 200);
    assert_eq!(serving.ask("GET", "/v1/models", &visit, "").status, 403);
    let part = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
    assert_eq!(serving.ask("GET", "/page/app.js", &part, "").status, 403);
    assert_eq!(front(&serving, &[HTML, part[0], part[1]]).status, 403);
}

#[test]
fn the_page_is_told_what_the_model_is() {
    let serving = Serving::start(&["--temp", "0.3"]);
    let meta = serving.get("/v1/models").json()["data"][0]["meta"].clone();
    let message = json!({ "messages": [{ "role": "user", "content": "?" }], "max_tokens": 1 });
    let status = serving.post("/v1/chat/completions", &message).status;
    assert_eq!((&meta["chat"], &meta["sampling"]["temperature"]), (&json!(status == 200), &json!(0.3)));
    let chats = Serving::start(&["--chat-template", "chatml"]).get("/v1/models").json();
    assert_eq!(chats["data"][0]["meta"]["chat"], json!(true));
}

#[test]
fn experts_are_watched_as_they_work() {
    let serving = Serving::start(&[]);
    let watcher = serving.send("GET", "/v1/moewe/experts", &[], "");
    let mut lines = BufReader::new(watcher).lines().map(Result::unwrap);
    let mut next = || -> Value {
        let line = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let first = next();
    assert_eq!((&first["hits"], &first["reads"], &first["bytes"]), (&json!(0), &json!(0), &json!(0)));
    let request = json!({ "prompt": "Die Möwe fliegt über das Meer.", "max_tokens": 40, "temperature": 0 });
    let usage = serving.post("/v1/completions", &request).json()["usage"].clone();
    let (start, mut events) = (Instant::now(), vec![next()]);
    let wanted =
        (serving.metric("moewe_experts_hits_total") + serving.metric("moewe_experts_read_total")) as u64;
    let sum =
        |events: &[Value], key: &str| -> u64 { events.iter().map(|one| one[key].as_u64().unwrap()).sum() };
    while sum(&events, "hits") + sum(&events, "reads") < wanted {
        assert!(start.elapsed() < Duration::from_secs(30));
        events.push(next());
    }
    assert_eq!(sum(&events, "bytes"), serving.metric("moewe_experts_read_bytes_total") as u64);
    let meta = serving.get("/v1/models").json()["data"][0]["meta"].clone();
    let number = |value: &Value| value.as_u64().unwrap();
    // The last token of an answer is not computed any more.
    let rows = number(&usage["prompt_tokens"]) + number(&usage["completion_tokens"]) - 1;
    let layers = first["layers"].as_array().unwrap().len();
    assert!(layers > 0);
    for layer in 0..layers {
        let counts = events.iter().flat_map(|event| event["layers"][layer].as_array().unwrap());
        assert_eq!(counts.map(number).sum::<u64>(), rows * number(&meta["n_expert_used"]), "layer {layer}");
        let held = &events.last().unwrap()["resident"][layer];
        assert_eq!(held.as_array().unwrap().len() as u64, number(&meta["n_expert"]));
        assert!(held.as_array().unwrap().iter().any(|held| held == 1));
    }
    // The first token comes from the prompt; the last step may be told of before it is counted.
    assert!((38..=39).contains(&number(&events.last().unwrap()["step"])));
}

#[test]
fn at_most_four_events_a_second_and_none_of_a_dense_model() {
    let serving = Serving::start(&[]);
    let watcher = serving.send("GET", "/v1/moewe/experts", &[], "");
    let mut lines = BufReader::new(watcher).lines();
    let request = json!({ "prompt": "Am Morgen", "max_tokens": 200, "ignore_eos": true });
    let (mut times, is_seen) = (vec![], AtomicBool::new(false));
    // Something is computed until all have come, however fast.
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_seen.load(Ordering::Relaxed) {
                assert_eq!(serving.post("/v1/completions", &request).status, 200);
            }
        });
        while times.len() < 7 {
            match lines.next() {
                Some(Ok(line)) if line.starts_with("data: ") => times.push(Instant::now()),
                Some(Ok(_)) => {}
                _ => break,
            }
        }
        is_seen.store(true, Ordering::Relaxed);
    });
    assert_eq!(times.len(), 7, "events before the stream ended");
    // The first says what is there, and comes at once.
    let took = times[6] - times[1];
    assert!(took >= Duration::from_millis(1100), "five pauses took {took:?}");
    let folder = tempfile::tempdir().unwrap();
    let (source, file) = (Path::new(env!("CARGO_MANIFEST_DIR")), folder.path().join("dense.gguf"));
    let mut convert = Command::new(env!("CARGO_BIN_EXE_moewe"));
    convert.arg("convert").arg(source.join("tests/golden/merge/dense/llama-base")).arg("-o").arg(&file);
    assert!(convert.args(["--format", "F32"]).output().unwrap().status.success());
    let dense = Serving::start(&[file.to_str().unwrap()]);
    assert_eq!(dense.get("/v1/moewe/experts").status, 501);
}
