//! The reference checkpoints as files to run, and what tests do with them: rewrite them, feed them tokens.

use moewe_convert::{Options as ConvertOptions, Progress, convert};
use moewe_engine::gguf::{Gguf, Writer};
use moewe_engine::quant::Format;
use moewe_engine::session::{Options, cache_format};
use std::path::{Path, PathBuf};

struct Quiet;
impl Progress for Quiet {}

/// The reference checkpoints, in the repository or in what `MOEWE_TEST_DATA` names in its place.
pub(crate) fn golden() -> PathBuf {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    PathBuf::from(std::env::var_os("MOEWE_TEST_DATA").unwrap_or_else(built)).join("tests/golden")
}

/// A reference checkpoint as an F32 file in `target`, made once.
pub(crate) fn fixture(name: &str, target: &Path) -> PathBuf {
    let folder = golden().join(name);
    let out = target.join(name).with_extension("gguf");
    if !out.exists() {
        convert(&folder, &out, &ConvertOptions::new(Format::by_name("F32").unwrap()), &Quiet).unwrap();
    }
    out
}

/// Two threads, a short context.
pub(crate) fn options(cache: &str) -> Options {
    Options {
        cache: cache_format(cache).unwrap(),
        context: Some(300),
        threads: Some(2),
        ..Options::default()
    }
}

/// Arbitrary tokens, the same every time.
pub(crate) fn tokens(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 37 + seed * 101) % 250 + 3) as u32).collect()
}

/// The same of the smallest vocabulary, which has 128.
#[allow(dead_code, reason = "most tests take models with more")]
pub(crate) fn few_tokens(count: usize, seed: usize) -> Vec<u32> {
    tokens(count, seed).into_iter().map(|token| token % 125 + 3).collect()
}

/// A tensor of the rewritten file: name, format, shape and bytes.
pub(crate) type Rewritten = (String, &'static Format, Vec<u64>, Vec<u8>);

/// Writes the file anew with `change` applied to each tensor, in rising order of `place`.
pub(crate) fn rewrite(
    source: &Path,
    target: &Path,
    place: impl Fn(&str) -> usize,
    change: impl Fn(Rewritten) -> Vec<Rewritten>,
) {
    let gguf = Gguf::open(source).unwrap();
    let tensors = gguf.tensors().iter().flat_map(|tensor| {
        change((tensor.name.clone(), tensor.format, tensor.shape.clone(), gguf.bytes(tensor).to_vec()))
    });
    let mut tensors: Vec<Rewritten> = tensors.collect();
    tensors.sort_by_key(|(name, ..)| place(name));
    let directory =
        tensors.iter().map(|(name, format, shape, _)| (name.clone(), *format, shape.clone())).collect();
    let mut writer = Writer::new(gguf.metadata().clone(), directory).unwrap().create(target).unwrap();
    tensors.iter().for_each(|(.., bytes)| writer.write_tensor(bytes).unwrap());
    writer.finish().unwrap();
}
