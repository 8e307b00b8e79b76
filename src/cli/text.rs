//! Texts that commands work on: given as they are, from a file, or from stdin, for which `-` stands.
//!
//! A text file must be one: UTF-16, compressed and other binary files would be read without complaint, byte by byte,
//! and every figure computed from them would be wrong.

use super::output;
use anyhow::{Context, Result, bail};
use moewe_engine::os::{files, link};
use std::borrow::Cow;
use std::io::{self, Read, stdin};
use std::iter;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Where binary data show themselves.
const HEAD: usize = 8192;
/// Of so many characters one may be no UTF-8, since a few broken bytes are part of many corpora.
const BROKEN: usize = 10;
/// After so long without a byte a person hears what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const WAITING: &str = "waiting for standard input (Ctrl-D or < /dev/null to go on without)";

/// What was given, or all of stdin in place of `-` or nothing.
pub(crate) fn given_or_stdin(text: Option<&str>) -> Result<String> {
    match text {
        None | Some("-") => std::io::read_to_string(stdin()).context("cannot read the text from stdin"),
        Some(text) => Ok(text.to_owned()),
    }
}

/// All of stdin, which may be nothing.
pub(crate) fn stdin_or_nothing() -> Result<String> {
    text_or_nothing(stdin())
}

/// All of stdin besides a text that was given, unless it is a device. Who started us may have left a pipe open that nobody
/// writes to, and nothing tells it from a slow one: after a second's silence that is said, once.
pub(crate) fn piped() -> Result<Option<String>> {
    if !files::is_stdin_fed() {
        return Ok(None);
    }
    let (heard, silence) = mpsc::channel();
    thread::spawn(move || {
        let end = iter::repeat_with(|| silence.recv_timeout(PATIENCE)).find_map(Result::err);
        if end == Some(RecvTimeoutError::Timeout) {
            output::note(WAITING);
        }
    });
    text_or_nothing(Heard { input: stdin(), heard }).map(Some)
}

/// Says of every read that it has come back.
struct Heard<R> {
    input: R,
    heard: Sender<()>,
}

impl<R: Read> Read for Heard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        // Nobody listens any more once it was said.
        let _ = self.heard.send(());
        Ok(count)
    }
}

fn text_or_nothing(mut input: impl Read) -> Result<String> {
    let mut bytes = vec![];
    input.read_to_end(&mut bytes).context("cannot read the text from stdin")?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.trim_ascii().is_empty() {
        return Ok(String::from_utf8_lossy(bytes).into_owned());
    }
    decode(bytes).context("stdin")
}

/// `text` with its lines ended as a person types them: what Windows' editors put there is not part of a prompt.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

/// A text file, or stdin for `-`. A few bytes that are not UTF-8 are replaced; the mark at the beginning that Windows'
/// editors write is not part of the text.
pub(crate) fn read(path: &Path) -> Result<String> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = vec![];
        stdin().read_to_end(&mut bytes).context("cannot read the text from stdin")?;
        ("stdin".to_owned(), bytes)
    } else {
        let read = std::fs::read(path).map_err(|error| link::explain(path, error));
        let bytes = read.with_context(|| format!("{}: cannot read", path.display()))?;
        (path.display().to_string(), bytes)
    };
    let text = decode(&bytes).with_context(|| name.clone())?;
    let broken = broken(&bytes, &text);
    if broken > 0 {
        output::note(format!(
            "{name}: what is not UTF-8 is replaced, in {}",
            output::counted(broken, "place")
        ));
    }
    Ok(text)
}

/// The text that bytes are.
fn decode(bytes: &[u8]) -> Result<String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let head = &bytes[..bytes.len().min(HEAD)];
    if let Some(encoding) = utf_16(head) {
        bail!("this is {encoding}; UTF-8 is read: iconv -f {encoding} -t UTF-8");
    }
    if let Some(at) = head.iter().position(|&byte| byte == 0) {
        bail!("expected text, found binary data (a zero at byte {at})");
    }
    let text = String::from_utf8_lossy(bytes);
    if text.trim().is_empty() {
        bail!("there is no text in it");
    }
    if broken(bytes, &text) > text.chars().count() / BROKEN {
        bail!("expected text in UTF-8, found binary data or another encoding; iconv converts texts");
    }
    Ok(text.into_owned())
}

/// How many characters stand for bytes that are not UTF-8.
fn broken(bytes: &[u8], text: &str) -> usize {
    if std::str::from_utf8(bytes).is_ok() { 0 } else { text.matches('\u{fffd}').count() }
}

/// UTF-16 by its mark, or as texts in Latin letters have it: zeros in every second place and hardly any in the others.
fn utf_16(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xfe, ..] => return Some("UTF-16LE"),
        [0xfe, 0xff, ..] => return Some("UTF-16BE"),
        _ => {}
    }
    let (pairs, _) = head.as_chunks::<2>();
    let zeros = |place: usize| pairs.iter().filter(|pair| pair[place] == 0).count();
    let (first, second) = (zeros(0), zeros(1));
    let is_most = |zeros: usize, others: usize| zeros > pairs.len() / 2 && others <= pairs.len() / 16;
    match () {
        () if is_most(second, first) => Some("UTF-16LE"),
        () if is_most(first, second) => Some("UTF-16BE"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8], part: &str) {
        let message = decode(bytes).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }

    #[test]
    fn text_is_read_without_its_mark() {
        for (bytes, text) in [
            ("\u{feff}Möwe\r\n".as_bytes(), "Möwe\r\n"),
            (
                b"a few broken \xff bytes \xe4 are replaced",
                "a few broken \u{fffd} bytes \u{fffd} are replaced",
            ),
            ("\u{fffd}\u{fffd}".as_bytes(), "\u{fffd}\u{fffd}"),
            ("海鸥".as_bytes(), "海鸥"),
        ] {
            assert_eq!(decode(bytes).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let utf_16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(bytes).collect()
        };
        for text in ["\u{feff}Möwe", "eine Möwe über dem Hafen\n"] {
            refused(&utf_16(text, u16::to_le_bytes), "UTF-16LE");
            refused(&utf_16(text, u16::to_be_bytes), "UTF-16BE");
        }
        refused(b"GGUF\x03\0\0\0\x01\0\0\0abcdefghijklmnopqrstuvwxyz", "binary");
        let noise: Vec<u8> = (1..9999u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
        refused(&noise, "another encoding");
        for empty in ["", " \n", "\u{feff}"] {
            refused(empty.as_bytes(), "no text");
        }
    }
}
