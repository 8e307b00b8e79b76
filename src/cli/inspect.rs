//! `moewe inspect`: what a GGUF file says of itself. Reads the header; the model need not be one we can run.

use super::output::{self, Table};
use super::{Command, models};
use anyhow::{Context, Result};
use clap::Parser;
use moewe_convert::weights_without_padding;
use moewe_engine::gguf::{Array, Gguf, TensorInfo, Value};
use moewe_engine::model::{Adapter, Pair};
use moewe_engine::quant::FORMATS;
use serde_json::json;
use std::ffi::OsString;

/// Show a model's metadata, tensors, formats and true bits per weight.
#[derive(Parser)]
#[command(name = "inspect")]
pub(super) struct Inspect {
    /// A GGUF file, the first part of a split one, a name from `moewe list` or a remote one
    model: Option<OsString>,
    /// Print only this key's value, in full
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Inspect {
    fn run(self) -> Result<()> {
        let gguf = models::resolve(self.model.as_deref(), false)?.open()?;
        if let Some(key) = &self.key {
            let value = gguf.metadata().get(key).with_context(|| format!("the file has no key `{key}`"))?;
            return if self.json { output::json(&to_json(value)) } else { output::print(in_full(value)) };
        }
        if self.json { output::json(&report(&gguf)) } else { print_report(&gguf) }
    }
}

/// Some tensors together.
pub(crate) struct Share {
    format: &'static str,
    tensors: usize,
    pub(crate) weights: u64,
    bytes: u64,
}

impl Share {
    fn of<'a>(format: &'static str, tensors: impl Iterator<Item = &'a TensorInfo>) -> Self {
        let none = Self { format, tensors: 0, weights: 0, bytes: 0 };
        tensors.fold(none, |share, tensor| Self {
            tensors: share.tensors + 1,
            weights: share.weights + tensor.elements(),
            bytes: share.bytes + tensor.byte_len(),
            ..share
        })
    }

    pub(crate) fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

/// Formats in use, the one with most bytes first.
fn shares(gguf: &Gguf) -> Vec<Share> {
    let share = |format: &'static moewe_engine::quant::Format| {
        Share::of(format.name, gguf.tensors().iter().filter(|tensor| tensor.format == format))
    };
    let mut shares: Vec<_> = FORMATS.iter().map(share).filter(|share| share.tensors > 0).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

fn total(gguf: &Gguf) -> Share {
    Share::of("all", gguf.tensors().iter())
}

/// All tensors, the zeros that widen a network to whole blocks not counted as weights.
pub(crate) fn model(gguf: &Gguf) -> Share {
    let total = total(gguf);
    Share { weights: weights_without_padding(gguf.metadata(), total.weights), ..total }
}

/// The format that holds most of the model's bytes.
pub(crate) fn main_format(gguf: &Gguf) -> &'static str {
    shares(gguf).first().map_or("none", |share| share.format)
}

/// What the file calls its architecture.
pub(crate) fn architecture(gguf: &Gguf) -> String {
    gguf.metadata().get("general.architecture").and_then(Value::as_str).unwrap_or("unknown").to_owned()
}

fn report(gguf: &Gguf) -> serde_json::Value {
    let (total, model) = (total(gguf), model(gguf));
    let metadata: serde_json::Map<_, _> =
        gguf.metadata().iter().map(|(key, value)| (key.to_owned(), to_json(value))).collect();
    let tensors = gguf.tensors().iter().map(|tensor| {
        json!({
            "name": tensor.name, "format": tensor.format.name, "shape": tensor.shape, "bytes": tensor.byte_len(),
        })
    });
    let formats = shares(gguf).into_iter().map(|share| {
        json!({
            "format": share.format, "tensors": share.tensors, "weights": share.weights, "bytes": share.bytes,
            "bits_per_weight": share.bits_per_weight(),
        })
    });
    json!({
        "path": gguf.path().map(|path| path.display().to_string()), "version": gguf.version(), "files": gguf.part_count(), "bytes": gguf.file_len(),
        "architecture": architecture(gguf), "parameters": model.weights,
        "padding": total.weights - model.weights, "bits_per_weight": model.bits_per_weight(), "formats": formats.collect::<Vec<_>>(),
        "metadata": metadata, "tensors": tensors.collect::<Vec<_>>(),
    })
}

/// What an adapter's file is, in a line.
fn print_adapter(gguf: &Gguf) -> Result<()> {
    let adapter = Adapter::read(gguf, String::new(), 1.0)?;
    let ranks = || adapter.pairs.values().map(Pair::rank);
    let (least, most) = (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0));
    let rank = if least == most { most.to_string() } else { format!("{least} to {most}") };
    let matrices: usize = adapter.pairs.values().map(|pair| pair.experts).sum();
    output::print(format!(
        "an adapter (LoRA) of rank {rank} on {matrices} matrices; add it to its base with --lora"
    ))
}

fn print_report(gguf: &Gguf) -> Result<()> {
    let (total, model) = (total(gguf), model(gguf));
    let path = gguf.path().unwrap_or(std::path::Path::new("")).display();
    output::print(format!("{path}: GGUF version {}, {}", gguf.version(), output::bytes(gguf.file_len())))?;
    if gguf.metadata().str("general.type")? == Some("adapter") {
        print_adapter(gguf)?;
    }
    output::print(format!(
        "{} with {} parameters at {:.3} bits per weight",
        output::excerpt(&architecture(gguf), 40),
        output::count(model.weights),
        model.bits_per_weight()
    ))?;
    if model.weights < total.weights {
        output::print(format!("and {} zeros of padding", output::count(total.weights - model.weights)))?;
    }
    output::print("")?;
    print_metadata(gguf)?;
    output::print("")?;
    print_formats(&shares(gguf), &total)?;
    output::print("")?;
    print_tensors(gguf)
}

fn print_metadata(gguf: &Gguf) -> Result<()> {
    let mut table = Table::new(&["KEY", "VALUE"], &[]);
    for (key, value) in gguf.metadata().iter() {
        table.row([output::excerpt(key, 80), in_short(value)]);
    }
    table.print()
}

fn print_formats(shares: &[Share], total: &Share) -> Result<()> {
    let mut table = Table::new(&["FORMAT", "TENSORS", "WEIGHTS", "SIZE", "BITS PER WEIGHT"], &[1, 2, 3, 4]);
    for share in shares.iter().chain([total]) {
        table.row([
            share.format.to_owned(),
            share.tensors.to_string(),
            output::count(share.weights),
            output::bytes(share.bytes),
            format!("{:.3}", share.bits_per_weight()),
        ]);
    }
    table.print()
}

fn print_tensors(gguf: &Gguf) -> Result<()> {
    let mut table = Table::new(&["TENSOR", "FORMAT", "SHAPE", "SIZE"], &[3]);
    for tensor in gguf.tensors() {
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        let name = output::excerpt(&tensor.name, 80);
        table.row([name, tensor.format.name.to_owned(), shape.join(" x "), output::bytes(tensor.byte_len())]);
    }
    table.print()
}

fn in_short(value: &Value) -> String {
    const SHOWN: usize = 60;
    match value {
        Value::Array(array) if array.len() > 8 => format!("{} {}", array.len(), array.element_name()),
        Value::String(text) => output::excerpt(text, SHOWN),
        other => output::excerpt(&in_full(other), SHOWN),
    }
}

/// Strings as they are, everything else as JSON.
fn in_full(value: &Value) -> String {
    value.as_str().map_or_else(|| to_json(value).to_string(), str::to_owned)
}

/// A fact of a file.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(n) => json!(n),
        Value::I8(n) => json!(n),
        Value::U16(n) => json!(n),
        Value::I16(n) => json!(n),
        Value::U32(n) => json!(n),
        Value::I32(n) => json!(n),
        Value::F32(n) => float(*n),
        Value::U64(n) => json!(n),
        Value::I64(n) => json!(n),
        Value::F64(n) => json!(n),
        Value::Bool(bool) => json!(bool),
        Value::String(text) => json!(text),
        Value::Array(array) => array_to_json(array),
    }
}

fn array_to_json(array: &Array) -> serde_json::Value {
    match array {
        Array::U8(all) => json!(all),
        Array::I8(all) => json!(all),
        Array::U16(all) => json!(all),
        Array::I16(all) => json!(all),
        Array::U32(all) => json!(all),
        Array::I32(all) => json!(all),
        Array::F32(all) => all.iter().map(|&n| float(n)).collect(),
        Array::U64(all) => json!(all),
        Array::I64(all) => json!(all),
        Array::F64(all) => json!(all),
        Array::Bool(all) => json!(all),
        Array::Strings(all) => json!(all.iter().collect::<Vec<_>>()),
        Array::Arrays(all) => all.iter().map(array_to_json).collect(),
    }
}

/// With the digits of the f32, not those of its neighbour in f64.
fn float(number: f32) -> serde_json::Value {
    json!(number.to_string().parse::<f64>().unwrap_or(f64::from(number)))
}
