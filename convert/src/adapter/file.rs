//! An adapter as a GGUF file of its own, as llama.cpp reads it and `--lora` takes it.

use super::{Change, Changes, Low, turned};
use crate::general;
use crate::source::Source;
use moewe_engine::gguf::{Destination, Existing, Metadata, Writer};
use moewe_engine::quant::{Format, Kind};
use moewe_engine::{Error, Result};
use std::path::Path;

/// What was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Written {
    /// The base's architecture.
    pub architecture: String,
    /// Matrices that it changes, those of all experts one by one.
    pub matrices: usize,
    /// Numbers of all pairs.
    pub weights: u64,
    /// Size of the file.
    pub bytes: u64,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Writes the adapter in `path` for `base` into `out`, in floats of `format`.
///
/// # Errors
/// An adapter that does not fit the base, or that no such file can hold; an `out` that exists and is kept.
pub(crate) fn write(
    path: &Path,
    base: &dyn Source,
    out: &Path,
    format: &'static Format,
    existing: Existing,
) -> Result<Written> {
    if format.kind != Kind::Float {
        let hint = "adapters are written as F32, F16 or BF16";
        return Err(Error::unsupported(format!("an adapter in {format}"), hint));
    }
    let changes = Changes::read(path, base)?;
    let alpha = if changes.alpha == 0.0 { 1.0 } else { changes.alpha };
    let mut pairs = Vec::new();
    for (name, change) in &changes.tensors {
        pairs.push(pair(name, change, alpha).map_err(|error| error.in_file(path))?);
    }
    let architecture = base.metadata().require_str("general.architecture")?.to_owned();
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture.as_str());
    metadata.set("general.type", "adapter");
    metadata.set("general.name", changes.name.as_str());
    if let Ok(Some(name)) = base.metadata().str("general.name") {
        metadata.set("general.base_model.count", 1u32);
        metadata.set("general.base_model.0.name", name);
    }
    metadata.set("adapter.type", "lora");
    metadata.set("adapter.lora.alpha", alpha as f32);
    general::set_layout_version(&mut metadata);
    changes.templates.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    let tensors = pairs.iter().flatten();
    let entries = tensors.clone().map(|tensor| (tensor.name.clone(), format, tensor.shape.clone())).collect();
    let writer = Writer::new(metadata, entries)?;
    let bytes = writer.file_len();
    let mut file = writer.into(Destination::create(out, existing)?)?;
    for tensor in tensors.clone() {
        let mut blocks = vec![0u8; tensor.values.len() * format.block_bytes];
        if let Some(quantize) = format.quantize {
            quantize(&tensor.values, None, &mut blocks);
        }
        file.write_tensor(&blocks)?;
    }
    file.finish()?;
    let lows = changes.tensors.values().flat_map(|change| change.lows.iter().flatten());
    let weights = tensors.map(|tensor| tensor.values.len() as u64).sum();
    Ok(Written { architecture, matrices: lows.count(), weights, bytes, notes: changes.notes })
}

/// A tensor of the file; its row length stands first.
struct Half {
    name: String,
    shape: Vec<u64>,
    values: Vec<f32>,
}

/// Both halves of a change. Their product is scaled by `alpha / rank`: where a pair has another factor, B makes up for it.
fn pair(name: &str, change: &Change, alpha: f64) -> Result<[Half; 2]> {
    let hint = "merge it: moewe convert BASE --lora ADAPTER";
    if change.magnitude.is_some() || change.whole.is_some() {
        let what =
            format!("the adapter gives {name} other lengths (DoRA) or other weights (modules_to_save)");
        return Err(Error::unsupported(what, hint));
    }
    let some: Vec<&Low> = change.lows.iter().flatten().collect();
    let (Some(first), Some(rank)) = (some.first(), some.iter().map(|low| low.rank).max()) else {
        return Err(Error::malformed(name.to_owned(), "a pair of matrices", "none"));
    };
    let (inputs, outputs) = (first.a.len() / first.rank, first.b.len() / first.rank);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for low in &change.lows {
        let nothing = Low { rank: 0, ..Low::default() };
        let low = low.as_ref().unwrap_or(&nothing);
        let ratio = low.scale * rank as f64 / alpha;
        a.extend_from_slice(&low.a);
        a.resize(a.len() + (rank - low.rank) * inputs, 0.0);
        for row in 0..outputs {
            let own = &low.b[row * low.rank..(row + 1) * low.rank];
            b.extend(own.iter().map(|&value| (f64::from(value) * ratio) as f32));
            b.resize(b.len() + rank - low.rank, 0.0);
        }
    }
    let experts = change.lows.len() as u64;
    let [rank, inputs, outputs] = [rank, inputs, outputs].map(|length| length as u64);
    if name == "token_embd.weight" {
        // The other way round: A has a row per token.
        let wide = turned(&a, rank as usize, inputs as usize);
        return Ok([half(name, "a", vec![rank, outputs], b), half(name, "b", vec![rank, inputs], wide)]);
    }
    let with_experts = |mut shape: Vec<u64>| {
        if experts > 1 {
            shape.push(experts);
        }
        shape
    };
    Ok([
        half(name, "a", with_experts(vec![inputs, rank]), a),
        half(name, "b", with_experts(vec![rank, outputs]), b),
    ])
}

fn half(name: &str, which: &str, shape: Vec<u64>, values: Vec<f32>) -> Half {
    Half { name: format!("{name}.lora_{which}"), shape, values }
}
