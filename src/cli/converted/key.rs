//! By what a checkpoint is known again: a hash of what its conversion reads, not of its place or its time.
//!
//! What describes the weights counts with all of its bytes. Weights count with their names, lengths and headers, and with
//! samples: reading fifty gigabytes at each start would take longer than all the rest. Training changes all tensors, or
//! whole kinds of them, so a page out of each tensor sees it.

use crate::pull::hex;
use anyhow::{Context, Result};
use moewe_convert::VERSION;
use moewe_convert::checkpoint::Checkpoint;
use ring::digest::{Context as Hash, SHA256};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const DIGITS: usize = 16; // of the hash, in the name of a file
const WHOLE: u64 = 32 << 20; // files up to this length are read as a whole
const STRETCH: u64 = 1 << 20;
const STRETCHES: u64 = 16; // of a longer file, the first and the last among them
const PAGE: usize = 4096; // out of the middle of a tensor
const PAGES: usize = 2048;
const LONGEST_HEADER: u64 = 100_000_000; // as the reader of safetensors has it
const DESCRIBING: [&str; 5] = ["json", "jinja", "model", "txt", "tiktoken"];

/// Digits that stand for a checkpoint, converted to this level.
pub(super) fn key(checkpoint: &Checkpoint, level: &str) -> Result<String> {
    let mut key = Key(Hash::new(&SHA256));
    key.take(VERSION.as_bytes());
    key.take(level.as_bytes());
    for file in describing(&checkpoint.folder) {
        key.name(&checkpoint.folder, &file);
        key.file(&file)?;
    }
    for file in checkpoint.files() {
        key.name(&checkpoint.folder, file);
        key.file(file)?;
    }
    key.tensors(checkpoint);
    Ok(hex(&key.0.finish().as_ref()[..DIGITS / 2]))
}

/// Whether `text` may be a key.
pub(super) fn is_key(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

struct Key(Hash);

impl Key {
    /// Bytes with their number, so that what comes next begins at a place of its own.
    fn take(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn name(&mut self, folder: &Path, file: &Path) {
        self.take(file.strip_prefix(folder).unwrap_or(file).as_os_str().as_encoded_bytes());
    }

    /// Length and bytes of a file, of a long one its header and samples.
    fn file(&mut self, path: &Path) -> Result<()> {
        let told = |what: &str| format!("{}: cannot {what}", path.display());
        let mut file = File::open(path).with_context(|| told("open"))?;
        let length = file.metadata().with_context(|| told("open"))?.len();
        self.take(&length.to_le_bytes());
        let mut buffer = vec![0; STRETCH as usize];
        for (start, end) in stretches(length, header(&mut file, length).with_context(|| told("read"))?) {
            file.seek(SeekFrom::Start(start)).with_context(|| told("read"))?;
            let mut left = end - start;
            while left > 0 {
                let piece = &mut buffer[..left.min(STRETCH) as usize];
                file.read_exact(piece).with_context(|| told("read"))?;
                self.0.update(piece);
                left -= piece.len() as u64;
            }
        }
        Ok(())
    }

    /// All tensors as they are described, and pages of them.
    fn tensors(&mut self, checkpoint: &Checkpoint) {
        let tensors = checkpoint.tensors();
        let step = tensors.len().div_ceil(PAGES).max(1);
        for (i, tensor) in tensors.iter().enumerate() {
            self.take(tensor.name.as_bytes());
            self.take(format!("{:?} {:?} {:?}", tensor.dtype, tensor.shape, tensor.strides).as_bytes());
            if i % step == 0 {
                let bytes = checkpoint.elements(tensor);
                let start = bytes.len().saturating_sub(PAGE) / 2;
                self.take(&bytes[start..bytes.len().min(start + PAGE)]);
            }
        }
        checkpoint.release();
    }
}

/// Where the header of a safetensors file ends; the beginning of any other file has none to be read.
fn header(file: &mut File, length: u64) -> std::io::Result<u64> {
    let mut start = [0; 9];
    if length < start.len() as u64 {
        return Ok(0);
    }
    file.read_exact(&mut start)?;
    let [count @ .., first] = start;
    let end = u64::from_le_bytes(count).saturating_add(8);
    Ok(if first == b'{' && end <= length && end <= LONGEST_HEADER { end } else { 0 })
}

/// What is read of a file.
fn stretches(length: u64, header: u64) -> Vec<(u64, u64)> {
    if length <= WHOLE {
        return vec![(0, length)];
    }
    let last = length - STRETCH;
    let samples =
        (0..STRETCHES).map(|i| last / (STRETCHES - 1) * i + last % (STRETCHES - 1) * i / (STRETCHES - 1));
    std::iter::once((0, header)).chain(samples.map(|start| (start, start + STRETCH))).collect()
}

/// Files of a folder that say what its weights are, sorted. All that may be one counts: a file too many only costs a
/// conversion, one that is overlooked would bring back the model of before.
fn describing(folder: &Path) -> Vec<PathBuf> {
    let in_folder = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| DESCRIBING.contains(&ending)) && path.is_file()
        });
        files.collect::<Vec<_>>()
    };
    let mut files = in_folder(folder);
    files.extend(in_folder(&folder.join("additional_chat_templates")));
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_sampled_from_the_first_byte_to_the_last() {
        assert_eq!(stretches(0, 0), [(0, 0)]);
        assert_eq!(stretches(WHOLE, 9), [(0, WHOLE)]);
        for length in [WHOLE + 1, 5_000_000_001, u64::MAX] {
            let found = stretches(length, 3 << 20);
            assert_eq!(found.len() as u64, 1 + STRETCHES);
            assert_eq!((found[0], found[1], found[16].1), ((0, 3 << 20), (0, STRETCH), length));
            assert!(found[1..].windows(2).all(|pair| pair[0].1 <= pair[1].0), "{length}: {found:?}");
        }
    }

    #[test]
    fn a_sampled_file_counts_with_its_length_and_its_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let hash = |change: &[(u64, u8)], length: u64| {
            use std::io::Write;
            let mut file = File::create(&path).unwrap();
            file.set_len(length).unwrap();
            for &(at, byte) in change {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&[byte]).unwrap();
            }
            let mut key = Key(Hash::new(&SHA256));
            key.file(&path).unwrap();
            key.0.finish().as_ref().to_vec()
        };
        let length = 2 * WHOLE;
        let plain = hash(&[], length);
        assert_eq!(plain, hash(&[], length));
        for change in [(0, 1), (STRETCH - 1, 1), (length - 1, 1), (length - STRETCH, 1)] {
            assert_ne!(plain, hash(&[change], length), "{change:?}");
        }
        assert_ne!(plain, hash(&[], length + 1));
    }

    #[test]
    fn what_is_read_counts_and_the_place_does_not() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen2-tied");
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            for name in ["config.json", "generation_config.json", "model.safetensors"] {
                fs::write(folder.path().join(name), fs::read(golden.join(name)).unwrap()).unwrap();
            }
        }
        let of = |folder: &tempfile::TempDir, level| {
            key(&Checkpoint::open(folder.path()).unwrap(), level).unwrap()
        };
        let first = of(&one, "8bit");
        assert!(is_key(&first) && first == of(&other, "8bit") && first != of(&other, "4bit"));
        fs::write(other.path().join("notes.md"), "x").unwrap();
        assert_eq!(first, of(&other, "8bit"));
        fs::create_dir(other.path().join("additional_chat_templates")).unwrap();
        for (name, bytes) in [
            ("additional_chat_templates/tool.jinja", &b"{{ x }}"[..]),
            ("tokenizer_config.json", b"{}"),
            ("chat_template.jinja", b"y"),
        ] {
            let before = of(&other, "8bit");
            fs::write(other.path().join(name), bytes).unwrap();
            assert_ne!(before, of(&other, "8bit"), "{name}");
        }
        let mut weights = fs::read(golden.join("model.safetensors")).unwrap();
        let last = weights.len() - 1;
        weights[last] ^= 1;
        fs::write(one.path().join("model.safetensors"), weights).unwrap();
        assert_ne!(first, of(&one, "8bit"));
    }
}
