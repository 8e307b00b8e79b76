//! A server of our own on this machine, and a client that speaks plain HTTP to it, so that nothing is hidden from a test.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running `moewe serve`; it ends with the test.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Serving {
    /// Starts one on a free port and waits until it has loaded. The model in the program, unless the first argument is
    /// another, continues texts.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let names_one = arguments.first().is_some_and(|first| !first.starts_with('-'));
        let base: &[&str] = if names_one { &[] } else { &["--base"] };
        Self::by(command(), &[base, arguments].concat())
    }

    /// The same by a command of one's own.
    pub(crate) fn by(command: Command, arguments: &[&str]) -> Self {
        let serving = Self::begin(command, arguments);
        serving.wait();
        serving
    }

    /// Waits until it has loaded.
    pub(crate) fn wait(&self) {
        let start = Instant::now();
        while self.get("/health").status != 200 {
            assert!(start.elapsed() < Duration::from_secs(60), "it never loaded");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts one and waits until it listens.
    pub(crate) fn begin(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command.args(["--port", "0"]).args(arguments).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        // What it says later has to go somewhere.
        thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(drop));
        let address =
            first.trim_end().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{first}"));
        Self { child, address: address.to_owned() }
    }

    /// An open connection on which this request was sent.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("host: {}\r\n", self.address);
        }
        if method == "POST" && !headers.iter().any(|(name, _)| *name == "content-type") {
            head += "content-type: application/json\r\n";
        }
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "transfer-encoding") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        stream
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        Reply::read(self.send(method, path, headers, body))
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &[], &body.to_string())
    }

    /// The value of a metric, by its name and labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or("0").parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub(crate) fn until(&self, name: &str, holds: impl Fn(f64) -> bool) {
        let start = Instant::now();
        while !holds(self.metric(name)) {
            assert!(start.elapsed() < Duration::from_secs(60), "{name} is {}", self.metric(name));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `moewe serve`, with what it says on pipes.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moewe"));
    command.arg("serve").env_remove("MOEWE_API_KEY").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// An answer, whole.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn read(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let status = line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let lines = std::iter::from_fn(|| Some(line()).filter(|line| !line.is_empty()));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| {
                line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            })
            .collect();
        let mut body = vec![];
        if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
            loop {
                let mut size = String::new();
                let read = stream.read_line(&mut size).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                if read == 0 || size == 0 {
                    break;
                }
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).unwrap();
                body.extend_from_slice(&chunk[..size]);
            }
        } else {
            stream.read_to_end(&mut body).unwrap();
        }
        Self { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The events of a stream, `[DONE]` as null.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(
            (self.status, self.header("content-type")),
            (200, Some("text/event-stream")),
            "{}",
            self.text()
        );
        let text = self.text();
        let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        events
            .map(|event| if event == "[DONE]" { Value::Null } else { serde_json::from_str(event).unwrap() })
            .collect()
    }
}
