//! Whole conversions: what is in the file afterwards, what happens when it must not be written, and requantizing.

use super::*;
use crate::checkpoint::Checkpoint;
use moewe_engine::Error;
use moewe_engine::gguf::Gguf;
use moewe_engine::quant::Format;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn options(format: &str) -> Options {
    Options::new(Format::by_name(format).unwrap())
}

fn weights(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut weights = vec![0.0; tensor.elements() as usize];
    (tensor.format.dequantize)(&gguf.bytes(tensor), &mut weights);
    weights
}

fn source(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let bytes = checkpoint.elements(checkpoint.get(name).unwrap());
    bytes.as_chunks().0.iter().map(|&two| half::bf16::from_le_bytes(two).to_f32()).collect()
}

#[test]
fn weights_arrive_where_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    let report = convert(&golden("mixtral"), &out, &options("F32"), &()).unwrap();
    assert_eq!((report.tensors, report.substitutions.len(), report.suspicious.len()), (23, 0, 0));
    assert_eq!(report.bits_per_weight, 32.0);
    let (gguf, checkpoint) = (Gguf::open(&out).unwrap(), Checkpoint::open(&golden("mixtral")).unwrap());
    assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
    let experts = weights(&gguf, "blk.1.ffn_down_exps.weight");
    let third = source(&checkpoint, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    assert_eq!(experts[2 * 256 * 256..3 * 256 * 256], third);
    // Row 1 of a head of 64 is row 32 of the source: halves become neighbours.
    let (q, from) = (
        weights(&gguf, "blk.0.attn_q.weight"),
        source(&checkpoint, "model.layers.0.self_attn.q_proj.weight"),
    );
    assert_eq!(q[..256], from[..256]);
    assert_eq!(q[256..512], from[32 * 256..33 * 256]);
    assert_eq!(gguf.metadata().require_str("tokenizer.ggml.model").unwrap(), "none");
}

#[test]
fn every_fixture_converts_to_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let names = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    for src in names.filter(|path| path.join("expected.safetensors").is_file()) {
        for format in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K"] {
            let out = folder.path().join(format!("{format}.gguf"));
            let mut options = options(format);
            options.force = true;
            let report =
                convert(&src, &out, &options, &()).unwrap_or_else(|e| panic!("{}: {e}", src.display()));
            let gguf = Gguf::open(&out).unwrap();
            assert_eq!(gguf.tensors().len(), report.tensors);
            for tensor in gguf.tensors().iter().filter(|tensor| tensor.name.ends_with("norm.weight")) {
                assert_eq!(tensor.format.name, "F32", "{}", tensor.name);
            }
        }
    }
}

#[test]
fn packed_weights_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(golden("llama-dense/config.json")).unwrap();
    let packed = text.replacen('{', r#"{ "quantization_config": { "quant_method": "gptq" }, "#, 1);
    std::fs::write(folder.path().join("config.json"), packed).unwrap();
    std::fs::copy(golden("llama-dense/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let result = convert(folder.path(), &folder.path().join("m.gguf"), &options("Q8_0"), &());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("gptq") && message.contains("original"), "{message}");
}

#[test]
fn substitutions_are_told_and_stored() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    // Shared experts of 48: the joined row of 96 fits, single rows of the source would not.
    let report = convert(&golden("tachyon-checkpoint"), &out, &options("Q4_0"), &()).unwrap();
    let [head] = &report.substitutions[..] else { panic!("{:?}", report.substitutions) };
    assert_eq!((head.tensor.as_str(), head.used.as_str()), ("output.weight", "Q8_0"));
    let gguf = Gguf::open(&out).unwrap();
    let stored = gguf.metadata().require_array("moewe.substitutions").unwrap();
    assert_eq!(stored.string(0), Some(head.to_string().as_str()));
}

#[test]
fn an_existing_file_stays_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    std::fs::write(&out, "precious").unwrap();
    let message = convert(&golden("llama-dense"), &out, &options("Q8_0"), &()).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
}

/// Stops when the third tensor comes.
struct StopAtThird(Arc<AtomicBool>, std::sync::atomic::AtomicUsize);

impl Progress for StopAtThird {
    fn tensor(&self, _name: &str) {
        self.0.store(self.1.fetch_add(1, Ordering::Relaxed) == 2, Ordering::Relaxed);
    }
}

#[test]
fn stopping_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let options = options("Q8_0");
    let progress = StopAtThird(options.stop.clone(), Default::default());
    let result = convert(&golden("llama-dense"), &folder.path().join("m.gguf"), &options, &progress);
    assert!(matches!(result, Err(Error::Stopped)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_choice_of_formats_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing is written, so nothing later could notice.
    let options = Options { recipe: Recipe::Bits(4.8), dry_run: true, ..options("Q8_0") };
    options.stop.store(true, Ordering::Relaxed);
    let result = convert(&golden("llama-dense"), &folder.path().join("m.gguf"), &options, &());
    assert!(matches!(result, Err(Error::Stopped)));
}

#[test]
fn numbers_that_are_none_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("llama-dense").join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let tensor = checkpoint.get("model.embed_tokens.weight").unwrap();
    let start = &checkpoint.elements(tensor)[..64];
    let at = bytes.windows(64).position(|window| window == start).unwrap();
    bytes[at..at + 4].copy_from_slice(&[0xc0, 0x7f, 0x80, 0x7f]); // NaN, infinity
    drop(checkpoint);
    std::fs::write(&path, bytes).unwrap();
    let expected = Suspicious { tensor: "token_embd.weight".into(), not_finite: 2, out_of_range: 0 };
    for format in moewe_engine::quant::FORMATS.iter().filter(|format| format.quantize.is_some()) {
        let out = folder.path().join(format!("{format}.gguf"));
        let options = Options { allow_nan: true, ..Options::new(format) };
        let report = convert(folder.path(), &out, &options, &()).unwrap();
        assert_eq!(report.suspicious, std::slice::from_ref(&expected), "{format}");
    }
}

#[test]
fn a_gguf_file_is_requantized_and_keeps_its_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let [f32, q8, direct] = ["f32.gguf", "q8.gguf", "direct.gguf"].map(|name| folder.path().join(name));
    convert(&golden("qwen3moe"), &f32, &options("F32"), &()).unwrap();
    convert(&f32, &q8, &options("Q8_0"), &()).unwrap();
    convert(&golden("qwen3moe"), &direct, &options("Q8_0"), &()).unwrap();
    let [q8, direct] = [q8, direct].map(|path| Gguf::open(path).unwrap());
    assert_eq!(q8.metadata().u64("general.file_type").unwrap(), Some(7));
    for tensor in direct.tensors() {
        let other = q8.tensor(&tensor.name).unwrap();
        assert_eq!((other.format, &other.shape), (tensor.format, &tensor.shape), "{}", tensor.name);
        assert_eq!(*q8.bytes(other), *direct.bytes(tensor), "{}", tensor.name);
    }
    for (key, value) in direct.metadata().iter().filter(|(key, _)| key.starts_with("qwen3moe.")) {
        assert_eq!(q8.metadata().get(key), Some(value), "{key}");
    }
}
