//! A hub on this machine: lists and files as Hugging Face, Ollama's registry and ModelScope send them, and faults that a
//! test scripts. A thread per connection, one answer per connection, and a record of what was asked.

#![allow(dead_code, reason = "each test uses what it needs")]

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong when a file's bytes are asked for. `usize`: how many times before it goes right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes.
    CutAfter(usize),
    /// 429 with `retry-after: 1`.
    Busy,
    /// 500.
    Broken,
    /// A byte is another.
    WrongBytes,
    /// `Content-Range` names bytes that were not asked for.
    WrongContentRange,
    /// 200 and the whole file, whatever was asked for.
    IgnoresRange,
    /// Headers, then nothing.
    Stalls,
    /// The signed address is refused.
    Expired,
    /// `Content-Range` says that the file is longer.
    SizeLie,
    /// The etag is another for each answer.
    OtherEtag,
    /// A redirect to itself.
    RedirectLoop,
    /// A redirect to another port of this machine.
    RedirectTo(u16),
    /// So many KiB, then a pause of ten milliseconds, and so on.
    Slow(usize),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<(usize, Option<usize>)>,
    if_range: Option<String>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<Vec<(String, Arc<Vec<u8>>)>>,
    faults: Mutex<Vec<(Fault, usize)>>,
    raw: Mutex<Vec<(String, Answer)>>,
    seen: Mutex<Vec<Seen>>,
    answers: AtomicUsize,
    gated: AtomicBool,
    realm: Mutex<Option<String>>,
    page: AtomicUsize,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![], body: Arc::new(body.into()) }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A hub that runs until the process ends.
#[derive(Clone)]
pub(crate) struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    /// A hub that has `owner/repo` with these files.
    pub(crate) fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        files.iter().for_each(|(path, bytes)| hub.add(path, bytes));
        let shared = hub.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client that hangs up is what some tests are about.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        hub
    }

    pub(crate) fn add(&self, path: &str, bytes: &[u8]) {
        self.shared.files.lock().unwrap().push((path.to_owned(), Arc::new(bytes.to_vec())));
    }

    /// So many of the next requests for bytes go wrong.
    pub(crate) fn fault(&self, fault: Fault, times: usize) {
        self.shared.faults.lock().unwrap().push((fault, times));
    }

    /// Everything goes right again.
    pub(crate) fn mend(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// Files need a token.
    pub(crate) fn gate(&self) {
        self.shared.gated.store(true, Ordering::SeqCst);
    }

    /// The registry wants a token, which this place gives to everybody.
    pub(crate) fn realm(&self, url: &str) {
        *self.shared.realm.lock().unwrap() = Some(url.to_owned());
    }

    /// Lists have so many files a page.
    pub(crate) fn page(&self, files: usize) {
        self.shared.page.store(files, Ordering::SeqCst);
    }

    /// This very body for a path.
    pub(crate) fn raw(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.shared.raw.lock().unwrap().push((path.to_owned(), Answer::new(200, body)));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What was asked since the last time.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut seen = Seen { method, path, authorization: None, range: None, if_range: None };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            let value = value.trim().to_owned();
            match name.to_lowercase().as_str() {
                "authorization" => seen.authorization = Some(value),
                "if-range" => seen.if_range = Some(value),
                "range" => {
                    let (start, end) = value.trim_start_matches("bytes=").split_once('-').unwrap();
                    seen.range = Some((start.parse().unwrap(), end.parse().ok()));
                }
                _ => {}
            }
        }
        self.seen.lock().unwrap().push(seen.clone());
        self.answer(&seen, stream)
    }

    fn answer(&self, seen: &Seen, stream: TcpStream) -> std::io::Result<()> {
        let path = seen.path.split('?').next().unwrap_or_default();
        let raw =
            self.raw.lock().unwrap().iter().find(|(known, _)| known == path).map(|(_, raw)| raw.clone());
        if let Some(raw) = raw {
            return send(stream, seen, &raw, None);
        }
        let is_denied = self.gated.load(Ordering::SeqCst) && seen.authorization.is_none();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let realm = self.realm.lock().unwrap().clone().filter(|_| parts[0] == "v2");
        if let Some(realm) = realm.filter(|_| seen.authorization.as_deref() != Some("Bearer anonymous")) {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"pull:x\"");
            return send(stream, seen, &Answer::new(401, "").with("www-authenticate", challenge), None);
        }
        let found = match parts.as_slice() {
            ["api", "models", "owner", "repo", "tree", "main" | COMMIT] => {
                return send(stream, seen, &self.tree(seen), None);
            }
            ["api", "v1", "models", "owner", "repo", "repo", "files"] => {
                return send(stream, seen, &self.modelscope(), None);
            }
            ["token"] => return send(stream, seen, &Answer::new(200, r#"{"token":"anonymous"}"#), None),
            ["v2", "library", name, "manifests", "latest"] => {
                return send(stream, seen, &self.manifest(name), None);
            }
            [owner, repo, "resolve", ..] if is_denied => {
                return send(stream, seen, &Answer::new(403, format!("{owner}/{repo} is gated")), None);
            }
            ["owner", "repo", "resolve", "main" | COMMIT, file @ ..] => {
                return self.resolve(seen, stream, &file.join("/"));
            }
            ["v2", "library", _, "blobs", digest] => {
                let files = self.files.lock().unwrap();
                let file = files.iter().find(|(_, bytes)| format!("sha256:{}", sha256(bytes)) == *digest);
                file.map(|(name, _)| name.clone())
            }
            ["models", "owner", "repo", "resolve", "master", file @ ..] => Some(file.join("/")),
            ["signed", file @ ..] | ["plain", file @ ..] => Some(file.join("/")),
            _ => None,
        };
        match found.and_then(|name| self.file(&name)) {
            Some(bytes) => self.bytes(seen, stream, &bytes),
            None => send(stream, seen, &Answer::new(404, "no"), None),
        }
    }

    fn file(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        self.files.lock().unwrap().iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.clone())
    }

    /// The fault for this request for bytes.
    fn fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (fault, times) = faults.iter_mut().find(|(_, times)| *times > 0)?;
        *times -= 1;
        Some(*fault)
    }

    fn tree(&self, seen: &Seen) -> Answer {
        let files = self.files.lock().unwrap();
        let entry = |(path, bytes): &(String, Arc<Vec<u8>>)| {
            json!({
                "type": "file", "path": path, "size": bytes.len(), "oid": "0".repeat(40),
                "lfs": { "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134 },
            })
        };
        let all: Vec<Value> = files.iter().map(entry).collect();
        let page = match self.page.load(Ordering::SeqCst) {
            0 => all.len().max(1),
            page => page,
        };
        let from: usize = seen.path.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().unwrap());
        let part = &all[from..all.len().min(from + page)];
        let answer = Answer::new(200, serde_json::to_vec(part).unwrap());
        if from + page < all.len() {
            let next = format!(
                "</api/models/owner/repo/tree/main?recursive=true&cursor={}>; rel=\"next\"",
                from + page
            );
            return answer.with("link", next);
        }
        answer
    }

    fn modelscope(&self) -> Answer {
        let files = self.files.lock().unwrap();
        let files: Vec<Value> = files
            .iter()
            .map(|(path, bytes)| {
                json!({ "Path": path, "Type": "blob", "Size": bytes.len(), "Sha256": sha256(bytes) })
            })
            .collect();
        Answer::new(200, json!({ "Code": 200, "Data": { "Files": files }, "Success": true }).to_string())
    }

    fn manifest(&self, name: &str) -> Answer {
        let Some(bytes) = self.file(name) else { return Answer::new(404, "no") };
        let layer = |kind: &str, digest: String, size: usize| json!({ "mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": digest, "size": size });
        let model = layer("model", format!("sha256:{}", sha256(&bytes)), bytes.len());
        let params = layer("params", format!("sha256:{}", sha256(b"{}")), 2);
        Answer::new(200, json!({ "schemaVersion": 2, "layers": [model, params] }).to_string())
    }

    fn resolve(&self, seen: &Seen, stream: TcpStream, name: &str) -> std::io::Result<()> {
        let Some(bytes) = self.file(name) else { return send(stream, seen, &Answer::new(404, "no"), None) };
        let mut to = format!("/signed/{name}?signature={}", self.answers.fetch_add(1, Ordering::SeqCst));
        if seen.method == "GET" {
            let mut faults = self.faults.lock().unwrap();
            match faults.iter_mut().find(|(_, times)| *times > 0) {
                Some((Fault::RedirectLoop, times)) => {
                    *times -= 1;
                    to.clone_from(&seen.path);
                }
                Some((Fault::RedirectTo(port), _)) => to = format!("http://localhost:{port}/plain/{name}"),
                _ => {}
            }
        }
        let answer = Answer::new(302, "")
            .with("location", to)
            .with("x-repo-commit", COMMIT)
            .with("x-linked-size", bytes.len())
            .with("x-linked-etag", format!("\"{}\"", sha256(&bytes)));
        send(stream, seen, &answer, None)
    }

    fn bytes(&self, seen: &Seen, stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        let fault = self.fault();
        match fault {
            Some(Fault::Busy) => {
                return send(stream, seen, &Answer::new(429, "").with("retry-after", 1), None);
            }
            Some(Fault::Broken) => return send(stream, seen, &Answer::new(500, ""), None),
            Some(Fault::Expired) => return send(stream, seen, &Answer::new(403, ""), None),
            _ => {}
        }
        let etag = match fault {
            Some(Fault::OtherEtag) => format!("\"e{}\"", self.answers.fetch_add(1, Ordering::SeqCst)),
            _ => format!("\"{}\"", &sha256(bytes)[..16]),
        };
        let is_current =
            seen.if_range.as_ref().is_none_or(|known| *known == etag || fault == Some(Fault::OtherEtag));
        let range = seen.range.filter(|_| fault != Some(Fault::IgnoresRange) && is_current);
        let (start, end) = range.map_or((0, bytes.len()), |(start, last)| {
            (start, last.map_or(bytes.len(), |last| (last + 1).min(bytes.len())))
        });
        if start >= end {
            let total = format!("bytes */{}", bytes.len());
            return send(stream, seen, &Answer::new(416, "").with("content-range", total), None);
        }
        let mut part = bytes[start..end].to_vec();
        if fault == Some(Fault::WrongBytes) {
            part[(end - start) / 2] ^= 1;
        }
        let answer = Answer::new(if range.is_some() { 206 } else { 200 }, part).with("etag", etag);
        let shift = usize::from(fault == Some(Fault::WrongContentRange));
        let total = bytes.len() + usize::from(fault == Some(Fault::SizeLie));
        let answer = match range {
            Some(_) => answer.with("content-range", format!("bytes {}-{}/{total}", start + shift, end - 1)),
            None => answer,
        };
        send(stream, seen, &answer, fault)
    }
}

fn send(mut stream: TcpStream, seen: &Seen, answer: &Answer, fault: Option<Fault>) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} x\r\ncontent-length: {}\r\nconnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    match fault {
        Some(Fault::Stalls) => {
            thread::sleep(Duration::from_secs(5));
            Ok(())
        }
        Some(Fault::CutAfter(count)) => stream.write_all(&answer.body[..count.min(answer.body.len())]),
        Some(Fault::Slow(kib)) => answer.body.chunks(kib << 10).try_for_each(|piece| {
            thread::sleep(Duration::from_millis(10));
            stream.write_all(piece)
        }),
        _ => stream.write_all(&answer.body),
    }
}
