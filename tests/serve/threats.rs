//! What strangers may try: numbers that are none, bodies without end, two lengths, words that are read back from errors and
//! logs; and sockets and keys that others must not reach.

use crate::serving::{Reply, Serving, command};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

/// A word that no answer of the server itself contains.
const SECRET: &str = "Klabautermann";

/// Paths of all numeric fields of a request, from the server's own document.
fn numeric_fields(document: &Value, path: &str) -> Vec<String> {
    let of = |pointer: &str| document.pointer(pointer).unwrap_or(&Value::Null);
    let path = path.replace('/', "~1");
    let body = of(&format!("/paths/{path}/post/requestBody/content/application~1json/schema"));
    let mut open = vec![body.clone()];
    let mut fields = vec![];
    while let Some(schema) = open.pop() {
        if let Some(name) = schema["$ref"].as_str() {
            open.push(of(name.trim_start_matches('#')).clone());
        }
        open.extend(schema["allOf"].as_array().cloned().unwrap_or_default());
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let kind = field["type"].to_string();
            if kind.contains("integer") || kind.contains("number") {
                fields.push(name.clone());
            }
        }
    }
    fields
}

#[test]
fn numbers_out_of_range_are_refused() {
    let serving = Serving::start(&["--chat-template", "chatml", "--parallel", "2", "--queue", "4"]);
    let document = serving.get("/openapi.json").json();
    let numbers = [
        "-1",
        "-32",
        "0",
        "1e308",
        "-1e308",
        "1e999",
        "0.5",
        "9223372036854775807",
        "18446744073709551616",
        "-9223372036854775808",
        "\"7\"",
        "[]",
        "{}",
        "true",
        "null",
        "4294967296",
    ];
    for (path, base) in [
        ("/v1/completions", json!({ "prompt": "Im Hafen", "max_tokens": 1 })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "Ahoi" }], "max_tokens": 1 }),
        ),
    ] {
        let fields = numeric_fields(&document, path);
        assert!(fields.len() >= 12, "{path}: {fields:?}");
        for field in fields {
            for number in numbers {
                let text = base.to_string();
                let own = text.contains(&format!("\"{field}\":"));
                let body = match own {
                    true => text.replace(&format!("\"{field}\":1"), &format!("\"{field}\":{number}")),
                    false => text.replacen('{', &format!("{{\"{field}\":{number},"), 1),
                };
                // Without a limit of its own an answer goes on for as long as the context has room.
                let body = if own { body.replacen('{', "{\"stop\":[\"e\",\" \",\"n\"],", 1) } else { body };
                let reply = serving.ask("POST", path, &[], &body);
                assert!([200, 400].contains(&reply.status), "{path} {field} {number}: {}", reply.text());
                if reply.status == 400 {
                    let said = reply.json()["error"]["message"].as_str().unwrap().to_owned();
                    let is_named = said.contains(&field) || said.contains("number out of range");
                    assert!(is_named, "{path} {field} {number}: {said}");
                }
            }
        }
    }
    assert_eq!(serving.get("/health").status, 200);
}

#[test]
fn bodies_that_are_traps_are_refused() {
    let serving = Serving::start(&["--max-body", "1M"]);
    let status =
        |headers: &[(&str, &str)], body: &str| serving.ask("POST", "/v1/completions", headers, body).status;
    let deep = format!("{{\"prompt\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(status(&[], &deep), 400);
    assert_eq!(status(&[], &format!("{{\"prompt\":\"{}\"}}", "a".repeat(2 << 20))), 413);
    assert_eq!(status(&[], "{\"prompt\":\"a\",\"prompt\":\"b\"}"), 400);
    assert_eq!(status(&[("content-encoding", "gzip")], "{}"), 415);
    // Chunks whose sum is too much, though no length says so.
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    assert_eq!(status(&[("transfer-encoding", "chunked")], &format!("{chunk}{chunk}0\r\n\r\n")), 413);
    // Two lengths, which a proxy may read otherwise than the server.
    for lengths in
        ["content-length: 2\r\ntransfer-encoding: chunked", "content-length: 2\r\ncontent-length: 3"]
    {
        let mut stream = std::net::TcpStream::connect(&serving.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\nconnection: close";
        write!(stream, "{head}\r\nhost: {}\r\n{lengths}\r\n\r\n{{}}", serving.address).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 400"), "{lengths}: {said}");
    }
    // A head without end, and one of too many lines.
    for head in ["x".repeat(1 << 20), (0..200).map(|at| format!("x-{at}: 1\r\n")).collect()] {
        let mut stream = std::net::TcpStream::connect(&serving.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = write!(stream, "GET / HTTP/1.1\r\nhost: {}\r\n{head}\r\n\r\n", serving.address);
        let mut said = vec![];
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(serving.get("/health").status, 200);
}

/// A refusal reaches a client that is still writing, and one that asks first is told before it writes.
#[test]
fn refusals_are_heard_by_those_who_write() {
    let serving = Serving::start(&["--max-body", "1M", "--api-key", "sixteen-bytes-or-more"]);
    let length = 24 << 20;
    let head = |more: &str| {
        format!(
            "POST /v1/completions HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n",
            serving.address
        )
    };
    for (more, status) in [("authorization: Bearer sixteen-bytes-or-more\r\n", "413"), ("", "401")] {
        let mut stream = std::net::TcpStream::connect(&serving.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(head(more).as_bytes()).unwrap();
        for _ in 0..length >> 20 {
            stream.write_all(&vec![b' '; 1 << 20]).unwrap();
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
    }
    let mut stream = std::net::TcpStream::connect(&serving.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
        .write_all(head("authorization: Bearer sixteen-bytes-or-more\r\nexpect: 100-continue\r\n").as_bytes())
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
}

/// What one client says reaches no other by errors, figures or the log.
#[test]
fn nobody_hears_what_others_say() {
    let mut child = command().args(["--port", "0", "--chat-template", "chatml"]).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    std::io::BufRead::read_line(&mut log, &mut first).unwrap();
    let address = first.trim_end().strip_prefix("listening on http://").unwrap().to_owned();
    let reader = thread::spawn(move || {
        let mut said = String::new();
        log.read_to_string(&mut said).unwrap();
        said
    });
    let serving = Serving { child, address };
    serving.wait();
    let with = |fields: Value| {
        let mut request = json!({ "prompt": format!("{SECRET} "), "max_tokens": 2 });
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serving.post("/v1/completions", &request)
    };
    assert_eq!(with(json!({})).status, 200);
    for fields in
        [json!({ "n": -1 }), json!({ "stop": 7 }), json!({ "suffix": "x" }), json!({ "best_of": 9 })]
    {
        let reply = with(fields);
        assert!(reply.status == 400 && !reply.text().contains(SECRET), "{}", reply.text());
    }
    let long = with(json!({ "prompt": format!("{SECRET} ").repeat(3000) }));
    assert!(long.status == 400 && !long.text().contains(SECRET));
    for path in ["/metrics", "/health", "/v1/models", "/openapi.json", "/slots", "/props"] {
        assert!(!serving.get(path).text().contains(SECRET), "{path}");
    }
    drop(serving);
    let said = reader.join().unwrap();
    assert!(!said.contains(SECRET), "{said}");
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Child;
    use std::time::Instant;

    /// A server behind a path, once it listens.
    fn serve(path: &Path) -> Child {
        let child = command().arg("--host").arg(path).spawn().unwrap();
        let start = Instant::now();
        while UnixStream::connect(path).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "it never listened");
            thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn said(child: &mut Child) -> String {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    fn status(path: &Path, host: &str) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_path_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moewe.sock");
        let mut first = serve(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let start = Instant::now();
        while status(&path, "localhost") == "503" && start.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(status(&path, "localhost"), "200");
        assert_eq!(status(&path, "other.example"), "403");
        let mut second = command().arg("--host").arg(&path).spawn().unwrap();
        let words = said(&mut second);
        assert!(!second.wait().unwrap().success() && words.contains("name another path"), "{words}");
        // What a killed one leaves is taken over, and goes with the one that ends.
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(path.exists());
        let mut third = serve(&path);
        let pid = third.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(third.wait().unwrap().success());
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        let mut fourth = command().arg("--host").arg(&path).spawn().unwrap();
        let words = said(&mut fourth);
        assert!(!fourth.wait().unwrap().success() && words.contains("name another path"), "{words}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn keys_that_others_can_read_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, "a key of thirty letters or so").unwrap();
        for (mode, is_told) in [(0o600, false), (0o644, true)] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            let mut child = command()
                .arg("--api-key-file")
                .arg(&file)
                .args(["--host", "no.such.host.invalid"])
                .spawn()
                .unwrap();
            let words = said(&mut child);
            child.wait().unwrap();
            assert_eq!(words.contains("others may read it"), is_told, "{words}");
        }
    }
}

/// What an error in the middle leaves behind is no answer's business: the same question has the same answer.
#[test]
fn refused_requests_leave_the_next_ones_as_they_were() {
    let serving = Serving::start(&["--parallel", "2", "--exact"]);
    let question = json!({ "prompt": "Der Wind weht", "max_tokens": 8, "temperature": 0, "logprobs": 2 });
    let first = serving.post("/v1/completions", &question).json()["choices"].clone();
    let every = json!({ "prompt": "Der Wind weht", "max_tokens": 8, "logit_bias": {} });
    for fields in
        [json!({ "temperature": 1e38 }), json!({ "top_k": 1, "min_p": 1 }), json!({ "repeat_penalty": 1e30 })]
    {
        let mut request = every.clone();
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = Reply::read(serving.send("POST", "/v1/completions", &[], &request.to_string()));
        assert!([200, 400].contains(&reply.status), "{}", reply.text());
    }
    assert_eq!(serving.post("/v1/completions", &question).json()["choices"], first);
}
