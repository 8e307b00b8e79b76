//! Somebody else's runtime computes from our files what ours does: candle-transformers' Llama, dense and with experts.
//!
//! It wants a tensor for each expert, as files before April 2024 have them, so the converter's stacks are taken apart here;
//! both runtimes read the file that comes of it.

#![allow(clippy::print_stdout, reason = "the errors are for `--nocapture`")]

mod support;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use moewe_convert::{Options as ConvertOptions, convert};
use moewe_engine::gguf::{Gguf, TensorName, Writer};
use moewe_engine::quant::{Format, Kind};
use moewe_engine::session::cache_format;
use moewe_engine::{Engine, Options};
use std::fs::File;
use std::path::Path;
use support::{cases, difference, golden, numbers};

/// Formats of the matrices.
const FORMATS: [&str; 7] = ["F32", "F16", "Q8_0", "Q4_0", "Q5_1", "Q4_K", "Q6_K"];
/// Largest difference of logits in floats, relative to the largest one: only sums are added up in another order.
const FLOATS: f32 = 2e-5;
/// The same in blocks, in nine of ten rows: both runtimes round inputs to bytes, each in its own way, and what is nearly a
/// tie between experts may go the other way. A block that is read wrongly costs all of a logit.
const BLOCKS: f32 = 0.06;

/// Copies a file, with a tensor for each expert in the place of a stack.
fn take_apart(from: &Path, to: &Path) {
    let gguf = Gguf::open(from).unwrap();
    let (mut tensors, mut contents) = (vec![], vec![]);
    for tensor in gguf.tensors() {
        let (name, bytes) = (TensorName::of(&tensor.name), gguf.bytes(tensor));
        let Some(stem) = name.part.strip_suffix("_exps.weight") else {
            tensors.push((tensor.name.clone(), tensor.format, tensor.shape.clone()));
            contents.push(bytes.to_vec());
            continue;
        };
        let experts = tensor.shape[2] as usize;
        for (e, bytes) in bytes.chunks_exact(bytes.len() / experts).enumerate() {
            let part = format!("{stem}.{e}.weight");
            let name = TensorName { part: &part, ..name }.to_string();
            tensors.push((name, tensor.format, tensor.shape[..2].to_vec()));
            contents.push(bytes.to_vec());
        }
    }
    let mut writer = Writer::new(gguf.metadata().clone(), tensors).unwrap().create(to).unwrap();
    contents.iter().for_each(|bytes| writer.write_tensor(bytes).unwrap());
    writer.finish().unwrap();
}

fn theirs(file: &Path, tokens: &[u32]) -> Vec<f32> {
    let mut reader = File::open(file).unwrap();
    let content = Content::read(&mut reader).unwrap();
    let mut model = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    let logits = |(position, &token): (usize, &u32)| {
        let token = Tensor::new(&[[token]], &Device::Cpu).unwrap();
        numbers(&model.forward(&token, position).unwrap())
    };
    tokens.iter().enumerate().flat_map(logits).collect()
}

fn ours(file: &Path, tokens: &[u32]) -> Vec<f32> {
    let options = Options { cache: cache_format("f32").unwrap(), ..Options::default() };
    let engine = Engine::open(file, options).unwrap();
    let mut all = vec![];
    let mut session = engine.session().unwrap();
    let add = |_: usize, logits: &[f32]| {
        all.extend_from_slice(logits);
        Ok(())
    };
    session.extend_with_logits(tokens, add).unwrap();
    all
}

/// The largest differences of rows, relative to the largest logit of all: of nine in ten, and of all.
fn worst(found: &[f32], reference: &[f32], rows: usize) -> (f32, f32) {
    let width = reference.len() / rows;
    let largest = reference.iter().fold(0f32, |a, b| a.max(b.abs()));
    let scale = |row: &[f32]| row.iter().fold(0f32, |a, b| a.max(b.abs())) / largest;
    let row = |(found, reference): (&[f32], &[f32])| difference(found, reference) * scale(reference);
    let mut errors: Vec<f32> = found.chunks(width).zip(reference.chunks(width)).map(row).collect();
    assert_eq!((errors.len(), found.len()), (rows, reference.len()));
    errors.sort_by(f32::total_cmp);
    (errors[rows * 9 / 10 - 1], errors[rows - 1])
}

#[test]
fn candle_computes_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, apart] = ["whole.gguf", "apart.gguf"].map(|name| folder.path().join(name));
    let mut failures = vec![];
    for fixture in ["llama-dense", "mixtral"] {
        let cases = cases(&golden(fixture));
        let case = cases.iter().max_by_key(|case| case.tokens.len()).unwrap();
        for format in FORMATS.map(|name| Format::by_name(name).unwrap()) {
            let options = ConvertOptions { force: true, ..ConvertOptions::new(format) };
            convert(&golden(fixture), &whole, &options, &()).unwrap();
            take_apart(&whole, &apart);
            let (ours, theirs) = (ours(&apart, &case.tokens), theirs(&apart, &case.tokens));
            let (most, all) = worst(&ours, &theirs, case.tokens.len());
            let line = format!("{fixture:12} {format:5} nine of ten rows {most:.1e}, all {all:.1e}");
            println!("{line}");
            let is_near = if format.kind == Kind::Float { all <= FLOATS } else { most <= BLOCKS };
            failures.extend((!is_near).then_some(line));
        }
    }
    assert!(failures.is_empty(), "differences, relative to the largest logit:\n{}", failures.join("\n"));
}
