//! What a GGUF file says of itself, in the words and sums that commands and the server share: its architecture, its formats,
//! the bits of its weights, its metadata as JSON. Prints nothing.

use moewe_convert::weights_without_padding;
use moewe_engine::gguf::{Array, Gguf, TensorInfo, Value};
use moewe_engine::quant::{FORMATS, Format};
use serde_json::json;

/// Some tensors together.
pub(crate) struct Share {
    pub(crate) format: &'static str,
    pub(crate) tensors: usize,
    pub(crate) weights: u64,
    pub(crate) bytes: u64,
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
pub(crate) fn shares(gguf: &Gguf) -> Vec<Share> {
    let share = |format: &'static Format| {
        Share::of(format.name, gguf.tensors().iter().filter(|tensor| tensor.format == format))
    };
    let mut shares: Vec<_> = FORMATS.iter().map(share).filter(|share| share.tensors > 0).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

/// All tensors as they stand in the file.
pub(crate) fn total(gguf: &Gguf) -> Share {
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
