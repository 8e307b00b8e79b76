//! Disks that fail while a model is served: whoever needs what cannot be read is told so in the words of the interface, and
//! nobody else notices, now or later.

#[path = "../support/fixtures.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod fixtures;

use crate::serving::{Reply, Serving};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A model whose experts stand last in its file and are read anew for each step, for want of memory.
struct Failing {
    serving: Serving,
    file: PathBuf,
    bytes: Vec<u8>,
    _folder: TempDir,
}

impl Failing {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("experts-last.gguf");
        let place = |name: &str| usize::from(name.contains("_exps"));
        fixtures::rewrite(Path::new("models/moewe-mini/moewe-mini.gguf"), &file, place, |tensor| {
            vec![tensor]
        });
        let bytes = std::fs::read(&file).unwrap();
        let flags = ["--exact", "--parallel", "2", "--chat-template", "chatml", "--memory", "1M"];
        let serving = Serving::start(&[&[file.to_str().unwrap()][..], &flags].concat());
        Self { serving, file, bytes, _folder: folder }
    }

    /// Loses the last matrices of the last layer's experts.
    fn lose(&self) {
        File::options().write(true).open(&self.file).unwrap().set_len(self.kept() as u64).unwrap();
    }

    fn kept(&self) -> usize {
        self.bytes.len() - 200_000
    }

    /// The file as it was.
    fn mend(&self) {
        File::options().append(true).open(&self.file).unwrap().write_all(&self.bytes[self.kept()..]).unwrap();
    }

    fn odds(&self, prompt: &str) -> Reply {
        let request = json!({ "prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 3 });
        self.serving.post("/v1/completions", &request)
    }
}

const PROMPT: &str =
    "Die Möwe fliegt über das Meer, und der Wind weht vom Land her. Im Hafen liegen die Schiffe.";

#[test]
fn an_expert_that_cannot_be_read_ends_only_what_needs_it() {
    let failing = Failing::start();
    let choices = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["choices"].clone()
    };
    let long = PROMPT.repeat(12);
    let before = [PROMPT, &long].map(|prompt| choices(&failing.odds(prompt)));
    failing.lose();
    // Known or new, short or long: nobody gets an answer that was computed without it.
    for prompt in [PROMPT, &long, "Ein ganz anderer Anfang, den noch niemand gelesen hat"] {
        let reply = failing.odds(prompt);
        assert_eq!((reply.status, reply.header("x-should-retry")), (500, Some("false")), "{}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "server_error");
        assert!(error["message"].as_str().unwrap().contains("expert "), "{error}");
    }
    assert_eq!(failing.serving.get("/health").status, 200);
    failing.serving.until("moewe_requests_processing", |count| count == 0.0);
    failing.mend();
    let after = [PROMPT, &long].map(|prompt| choices(&failing.odds(prompt)));
    assert_eq!(after, before);
    let fresh =
        json!({ "prompt": long, "max_tokens": 6, "temperature": 0, "logprobs": 3, "cache_prompt": false });
    assert_eq!(choices(&failing.serving.post("/v1/completions", &fresh)), before[1]);
}

/// In the midst of an answer it is an event in the words of the interface, and nothing says that the answer is done.
#[test]
fn streams_end_with_the_error() {
    let failing = Failing::start();
    let messages = json!([{ "role": "user", "content": PROMPT }]);
    let chat = json!({ "messages": messages, "stream": true, "max_tokens": 400, "ignore_eos": true });
    let lines = json!({ "messages": messages, "options": { "num_predict": 400, "ignore_eos": true } });
    for (path, request, key) in [
        ("/v1/chat/completions", &chat, "content\":\""),
        ("/v1/messages", &chat, "text_delta"),
        (
            "/v1/responses",
            &json!({ "input": PROMPT, "stream": true, "ignore_eos": true }),
            "output_text.delta",
        ),
        ("/completion", &json!({ "prompt": PROMPT, "stream": true, "ignore_eos": true }), "content"),
        ("/api/chat", &lines, "content"),
    ] {
        let mut stream = failing.serving.send("POST", path, &[], &request.to_string());
        let mut begun = vec![];
        while !String::from_utf8_lossy(&begun).contains(key) {
            let mut more = [0; 512];
            let read = stream.read(&mut more).unwrap();
            assert!(read > 0, "{path}: {}", String::from_utf8_lossy(&begun));
            begun.extend_from_slice(&more[..read]);
        }
        failing.lose();
        stream.read_to_end(&mut begun).unwrap();
        failing.mend();
        let text = String::from_utf8_lossy(&begun);
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
        let last = text.lines().rev().find(|line| line.contains('{')).unwrap();
        let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap_or(last)).unwrap();
        let error = match path {
            "/v1/responses" => &last["response"]["error"]["message"],
            "/api/chat" => &last["error"],
            _ => &last["error"]["message"],
        };
        assert!(error.as_str().is_some_and(|error| error.contains("expert ")), "{path}: {last}");
        assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "{path}: {text}");
    }
    failing.serving.until("moewe_requests_processing", |count| count == 0.0);
    assert_eq!(failing.odds(PROMPT).status, 200);
}
