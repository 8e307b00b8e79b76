//! `moewe inspect`: what a GGUF file says of itself. Reads the header; the model need not be one we can run.

use super::output::{self, Table};
use super::{Command, models};
use crate::facts::{Share, architecture, model, shares, to_json, total};
use anyhow::{Context, Result};
use clap::Parser;
use moewe_engine::gguf::{Gguf, Value};
use moewe_engine::model::{Adapter, Pair};
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
