//! What a file's bytes have to be: SHA-256, or Git's SHA-1 of small files of a repository.

use anyhow::{Context, Result, bail};
use ring::digest::{Context as Hash, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const PIECE: usize = 1 << 20;

/// What a file's bytes have to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Digest {
    /// SHA-256 in lower-case hexadecimal digits.
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the bytes.
    Git(String),
}

impl Digest {
    /// A SHA-256 that somebody wrote down, perhaps with `sha256:` before it.
    ///
    /// # Errors
    /// Anything but 64 hexadecimal digits.
    pub(crate) fn sha256(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("expected a SHA-256 of 64 hexadecimal digits");
        }
        Ok(Self::Sha256(digits.to_ascii_lowercase()))
    }

    /// An object name of Git.
    pub(crate) fn git(text: &str) -> Option<Self> {
        let is_name = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then(|| Self::Git(text.to_ascii_lowercase()))
    }

    /// Its digits, of SHA-256 only.
    pub(crate) fn as_sha256(&self) -> Option<&str> {
        match self {
            Self::Sha256(digits) => Some(digits),
            Self::Git(_) => None,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Sha256(digits) if digits == EMPTY => write!(f, "sha256:{digits} (of an empty file)"),
            Self::Sha256(digits) => write!(f, "sha256:{digits}"),
            Self::Git(digits) => write!(f, "git:{digits}"),
        }
    }
}

/// A digest in the making: bytes are taken as they are written, as long as they come in order.
pub(super) struct Rolling {
    hash: Hash,
    position: u64,
    is_git: bool,
}

impl Rolling {
    /// Of no bytes as yet.
    pub(super) fn new(wanted: Option<&Digest>, size: Option<u64>) -> Self {
        let is_git = matches!(wanted, Some(Digest::Git(_)));
        let mut hash = Hash::new(if is_git { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 });
        if is_git {
            hash.update(format!("blob {}\0", size.unwrap_or(0)).as_bytes());
        }
        Self { hash, position: 0, is_git }
    }

    /// Takes bytes that were written, if they are the next ones.
    pub(super) fn wrote(&mut self, at: u64, bytes: &[u8]) {
        if at == self.position {
            self.hash.update(bytes);
            self.position += bytes.len() as u64;
        }
    }

    /// The digest of the whole file: what was not taken on the way is read.
    pub(super) fn finish(mut self, file: &mut File, stop: &Arc<AtomicBool>) -> Result<Digest> {
        file.seek(SeekFrom::Start(self.position)).context("cannot read what has arrived")?;
        let mut buffer = vec![0; PIECE];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(moewe_engine::Error::Stopped.into());
            }
            match file.read(&mut buffer).context("cannot read what has arrived")? {
                0 => break,
                count => self.hash.update(&buffer[..count]),
            }
        }
        let digits = hex(self.hash.finish().as_ref());
        Ok(if self.is_git { Digest::Git(digits) } else { Digest::Sha256(digits) })
    }
}

/// Bytes as digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn known_digests_in_and_out_of_order() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello\n").unwrap();
        let sha = Digest::sha256("sha256:5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03")
            .unwrap();
        let git = Digest::git("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(); // git hash-object
        for wanted in [&sha, &git] {
            for order in [[(0, "hel"), (3, "lo\n")], [(3, "lo\n"), (0, "hel")]] {
                let mut rolling = Rolling::new(Some(wanted), Some(6));
                order.iter().for_each(|(at, bytes)| rolling.wrote(*at, bytes.as_bytes()));
                assert_eq!(&rolling.finish(&mut file, &stop).unwrap(), wanted);
            }
        }
        let empty = Rolling::new(None, Some(0)).finish(&mut tempfile::tempfile().unwrap(), &stop).unwrap();
        assert!(empty.to_string().contains("empty file"), "{empty}");
        stop.store(true, Ordering::Relaxed);
        assert!(Rolling::new(None, None).finish(&mut file, &stop).is_err());
    }

    #[test]
    fn only_digests_are_digests() {
        for text in ["", "sha256:../../x", "sha256:5891", &"g".repeat(64)] {
            assert!(Digest::sha256(text).is_err(), "{text}");
        }
        assert!(Digest::git("../../etc").is_none());
    }
}
