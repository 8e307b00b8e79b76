//! Turns a stream of tokens into text that is valid UTF-8 at every moment. Stop texts are the session's business.

use super::Tokenizer;

/// Holds back the bytes of a character until its last byte has come.
#[derive(Default)]
pub struct StreamDecoder {
    pending: Vec<u8>, // at most 3 bytes of an unfinished character between calls
    ready: String,
}

impl StreamDecoder {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token and returns the text that it completes, often empty. Control tokens add nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> &str {
        let bytes = if tokenizer.is_control(token) { &[][..] } else { tokenizer.piece_bytes(token) };
        self.push_bytes(bytes)
    }

    /// Adds raw bytes and returns the text that they complete. What can no longer become a character is replaced.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> &str {
        self.ready.clear();
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            let rest = &self.pending[done + chunk.valid().len()..];
            self.ready.push_str(chunk.valid());
            done += chunk.valid().len();
            if unfinished(rest) {
                break;
            }
            if !chunk.invalid().is_empty() {
                self.ready.push(char::REPLACEMENT_CHARACTER);
                done += chunk.invalid().len();
            }
        }
        self.pending.drain(..done);
        &self.ready
    }

    /// Bytes of a character that is not whole yet.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Ends the stream: what is still held back will never be completed.
    pub fn flush(&mut self) -> &str {
        self.ready.clear();
        if !self.pending.is_empty() {
            self.ready.push(char::REPLACEMENT_CHARACTER);
        }
        self.pending.clear();
        &self.ready
    }
}

/// Whether `bytes` are the beginning of one character and nothing else.
fn unfinished(bytes: &[u8]) -> bool {
    !bytes.is_empty() && str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_appear_when_they_are_whole() {
        let mut stream = StreamDecoder::new();
        let steps: &[(&[u8], &str)] = &[
            (b"a\xC3", "a"),
            (b"", ""),
            (b"\xBC", "ü"),
            (b"\xF0\x9F", ""),
            (b"\xA6\x99!", "🦙!"),
            (b"\xF0\x9F", ""),
            (b"x", "\u{FFFD}x"),
            (b"\xFF\x80z\xE2", "\u{FFFD}\u{FFFD}z"),
        ];
        for (bytes, expected) in steps {
            assert_eq!(stream.push_bytes(bytes), *expected, "{bytes:?}");
        }
        assert_eq!(stream.flush(), "\u{FFFD}");
        assert_eq!(stream.push_bytes(b"b"), "b");
    }

    proptest! {
        #[test]
        fn the_whole_equals_lossy_decoding(bytes: Vec<u8>, text: String, cut in 1usize..5) {
            let all: Vec<u8> = bytes.iter().chain(text.as_bytes()).chain(&bytes).copied().collect();
            let mut stream = StreamDecoder::new();
            let mut seen = String::new();
            for piece in all.chunks(cut) {
                seen.push_str(stream.push_bytes(piece));
                prop_assert!(stream.pending.len() < 4);
            }
            seen.push_str(stream.flush());
            prop_assert_eq!(seen, String::from_utf8_lossy(&all));
        }
    }
}
