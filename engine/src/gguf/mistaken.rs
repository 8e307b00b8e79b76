//! Files that are not what their name says: pointers, error pages and answers of servers that a download left in a
//! file's place. Whoever reads weights, JSON or tokenizers asks here before saying "damaged".

use crate::error::Error;

/// What these bytes are, if not what was asked for, and what to do; `None` where nothing is known.
pub fn mistaken(bytes: &[u8]) -> Option<Error> {
    let is_head = |text: &[u8], start: &[u8]| {
        text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    let begins = |start: &[u8]| is_head(bytes, start);
    let page = |start: &[u8]| is_head(bytes.trim_ascii_start(), start);
    let again = "download it again and look at what the server says";
    let (what, hint) = match () {
        () if bytes.is_empty() => ("an empty file", "the download did not happen; download it again"),
        () if begins(b"version https://git-lfs") || begins(b"version https://hawser") => {
            ("a Git LFS pointer, not the file", "run `git lfs pull` in its folder")
        }
        () if page(b"<!doctype html") || page(b"<html") || page(b"<head") => (
            "a web page, not the file",
            "the download went wrong (a login or a link to a page?); download it again",
        ),
        () if page(b"<?xml") || page(b"<error") => ("an answer in XML, not the file", again),
        () if begins(b"Entry not found") || begins(b"Repository not found") || begins(b"404") => {
            ("a server's \"not found\", not a file", again)
        }
        () if begins(b"Invalid username or password")
            || begins(b"Access to model")
            || begins(b"Unauthorized") =>
        {
            ("a server's refusal, not the file", "log in or accept the model's terms, then download it again")
        }
        () if begins(b"\xff\xfe") || begins(b"\xfe\xff") => ("text in UTF-16", "save it as UTF-8"),
        () if begins(b"\x1f\x8b") => ("compressed with gzip", "unpack it first (gunzip)"),
        () => return None,
    };
    Some(Error::unsupported(format!("this is {what}"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_files_place_is_named() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "empty"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\n <!DOCTYPE html>\n", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"Entry not found", "not found"),
            (b"Access to model x is restricted", "terms"),
            (b"\xff\xfe{\0", "UTF-16"),
        ];
        for (bytes, expected) in cases {
            let message = mistaken(bytes).unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for bytes in [b"GGUF" as &[u8], b"{}", b"PK\x03\x04", b"version 1"] {
            assert!(mistaken(bytes).is_none(), "{bytes:?}");
        }
    }
}
