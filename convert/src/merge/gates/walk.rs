//! The base over some texts, one layer at a time: what enters each layer, and what a router will see in it.
//!
//! Each layer becomes a model of its own in memory, whose embedding is what the layer before it left behind, so the
//! runtime's own forward computes it and no more than one layer of the base is in memory.

use crate::merge::member::Member;
use crate::recipe::by_name;
use crate::tensor::Tensor;
use moewe_engine::gguf::{Bytes, Gguf, Metadata, Source, TensorName, Writer};
use moewe_engine::model::{Observe, Row, Site, Wants};
use moewe_engine::quant::{Format, Kind};
use moewe_engine::session::{Engine, Options};
use moewe_engine::simd::Isa;
use moewe_engine::{Error, Result};
use rayon::prelude::*;

/// Rows that are computed together.
const ROWS: usize = 512;

/// What a layer sees of all sequences, row below row.
pub(super) struct Seen<'a> {
    pub(super) layer: usize,
    pub(super) layers: usize,
    /// The residual stream before the layer.
    pub(super) entering: &'a [f32],
    /// The norm's output before the feed-forward network.
    pub(super) router: &'a [f32],
}

/// Computes the base over `sequences` and calls `each` with every layer.
///
/// # Errors
/// A layer cannot be read or computed, or `each` fails.
pub(super) fn walk(
    base: &Member,
    sequences: &[Vec<u32>],
    each: &mut dyn FnMut(&Seen) -> Result<()>,
) -> Result<()> {
    let layers = base.length("block_count")? as usize;
    let mut stream = embedded(base, sequences)?;
    for layer in 0..layers {
        let engine = one_layer(base, layer, sequences, &stream)?;
        base.source.release();
        let Passed { router, leaving, .. } = run(&engine, sequences)?;
        drop(engine);
        each(&Seen { layer, layers, entering: &stream, router: &router })?;
        stream = leaving;
    }
    Ok(())
}

/// Embeddings of all tokens, row below row.
pub(super) fn embedded(base: &Member, sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
    let table = base.tensor("token_embd.weight")?;
    let mut rows = Vec::new();
    for &token in sequences.iter().flatten() {
        if u64::from(token) >= table.subject.rows() {
            let expected = format!("tokens below {}, the rows of its embedding", table.subject.rows());
            return Err(Error::malformed(format!("tokenizer of {}", base.name), expected, token));
        }
        rows.extend(table.read(u64::from(token)..u64::from(token) + 1)?);
    }
    Ok(rows)
}

/// A model of one layer, whose tokens are the rows of `stream`.
fn one_layer(base: &Member, layer: usize, sequences: &[Vec<u32>], stream: &[f32]) -> Result<Engine> {
    let width = base.length("embedding_length")?;
    let rows = stream.len() as u64 / width;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let architecture = base.architecture()?;
    let mut metadata = Metadata::new();
    let keys = base.metadata().iter().filter(|(key, _)| !key.starts_with("tokenizer."));
    keys.for_each(|(key, value)| metadata.set(key, value.clone()));
    metadata.set(format!("{architecture}.block_count"), 1u32);
    metadata.set(format!("{architecture}.vocab_size"), rows as u32);
    metadata.set("tokenizer.ggml.model", "none");
    let float = by_name("F32");
    let own: Vec<(String, &Tensor)> =
        base.source.tensors().iter().filter_map(|tensor| own(tensor, layer)).collect();
    let mut entries = vec![("token_embd.weight".to_owned(), float, vec![width, rows])];
    for (name, tensor) in &own {
        let shape = tensor.subject.shape.iter().rev().copied().collect();
        entries.push((name.clone(), format_of(tensor), shape));
    }
    let writer = Writer::new(metadata, entries)?;
    let mut file = writer.over(Vec::new())?;
    file.write_tensor(&stream.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
    for (_, tensor) in &own {
        file.write_tensor(&bytes_of(tensor)?)?;
    }
    let gguf = Gguf::from_bytes(Bytes::new(Source::Memory(file.into_inner()?.into())))?;
    Engine::from_gguf(gguf, options(longest, sequences.len()))
}

/// The widest instruction set that multiplies floats as floats: tiles round inputs to BF16.
fn options(longest: usize, sequences: usize) -> Options {
    Options {
        isa: Isa::available().filter(|isa| *isa != Isa::Amx).last(),
        context: Some(longest.max(1)),
        sequences: Some(sequences.min(ROWS)),
        batch: ROWS,
        cache: by_name("F32"),
        ..Options::default()
    }
}

/// A tensor of the layer under the name of the only one, or one that belongs to none but the head.
fn own<'t, 's>(tensor: &'t Tensor<'s>, layer: usize) -> Option<(String, &'t Tensor<'s>)> {
    let name = tensor.subject.name.as_str();
    let TensorName { layer: own, part } = TensorName::of(name);
    match own {
        Some(own) if own == layer => Some((TensorName::in_layer(0, part).to_string(), tensor)),
        Some(_) => None,
        None if matches!(name, "token_embd.weight" | "output.weight") => None,
        None => Some((name.to_owned(), tensor)),
    }
}

/// The format that loses nothing.
fn format_of(tensor: &Tensor) -> &'static Format {
    let is_vector = tensor.subject.shape.len() < 2;
    let subject = &tensor.subject;
    let float = subject.float.filter(|float| float.kind == Kind::Float);
    let lossless = subject.stored.or(float).filter(|_| !is_vector);
    lossless.unwrap_or_else(|| by_name("F32"))
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let (format, subject) = (format_of(tensor), &tensor.subject);
    let row = format.row_bytes(subject.columns() as usize);
    let mut bytes = vec![0u8; row * subject.rows() as usize];
    let step = (1 << 20) / subject.columns().max(1) + 1;
    let parts = bytes.par_chunks_mut(step as usize * row).enumerate();
    parts.try_for_each(|(i, out)| {
        let first = i as u64 * step;
        let rows = first..first + (out.len() / row) as u64;
        match (subject.is_in(format), format.quantize) {
            (false, Some(quantize)) => quantize(&tensor.read(rows)?, None, out),
            _ => tensor.contents.copy(rows, out)?,
        }
        Ok::<_, Error>(())
    })?;
    Ok(bytes)
}

/// What a layer showed of all rows.
#[derive(Default)]
struct Passed {
    router: Vec<f32>,
    leaving: Vec<f32>,
}

impl Observe for Passed {
    fn matmul_input(&mut self, site: Site<'_>, rows: &[f32], _: usize) {
        if site.tensor == "blk.0.ffn_gate" {
            self.router.extend_from_slice(rows);
        }
    }

    fn hidden(&mut self, layer: usize, rows: &[f32], _: usize) {
        if layer == 1 {
            self.leaving.extend_from_slice(rows);
        }
    }
}

/// All sequences through the model, as many at a time as rows fit.
fn run(engine: &Engine, sequences: &[Vec<u32>]) -> Result<Passed> {
    let (mut passed, mut token, mut first) = (Passed::default(), 0u32, 0);
    while first < sequences.len() {
        let mut rows = 0;
        let fits = sequences[first..].iter().take_while(|sequence| {
            rows += sequence.len();
            rows <= ROWS
        });
        let group = &sequences[first..first + fits.count().max(1)];
        let mut batch = engine.batch(group.len())?;
        let mut all = Vec::new();
        for (sequence, tokens) in group.iter().enumerate() {
            for position in 0..tokens.len() {
                all.push(Row { sequence, position, token, wants: Wants::Nothing });
                token += 1;
            }
        }
        all.chunks(ROWS).try_for_each(|rows| batch.observed_step(rows, &mut passed))?;
        first += group.len();
    }
    Ok(passed)
}
