//! Tests of the container: what goes in comes out, and what a stranger wrote ends in an error.

mod destination;
mod malformed;
mod round_trip;
mod split;

use super::*;
use crate::quant::Format;

/// A format of the table.
fn format(name: &str) -> &'static Format {
    Format::by_name(name).unwrap()
}

/// A small file with a bit of everything.
fn sample() -> Vec<u8> {
    let metadata: Metadata = [
        ("general.architecture", Value::from("llama")),
        ("llama.block_count", Value::U32(2)),
        ("tokenizer.ggml.tokens", Value::from(vec!["a".to_owned(), "ö".into(), String::new()])),
        ("tokenizer.ggml.scores", Value::from(vec![0.5f32, -1.0, f32::NAN])),
    ]
    .into_iter()
    .collect();
    let tensors = vec![("token_embd.weight", format("Q8_0"), vec![32, 3]), ("norm", format("F32"), vec![5])];
    let mut writer = Writer::new(metadata, tensors).unwrap().over(Vec::new()).unwrap();
    writer.write_tensor(&[7; 102]).unwrap();
    writer.write_tensor(&[1; 20]).unwrap();
    writer.into_inner().unwrap()
}

fn parse(bytes: Vec<u8>) -> crate::Result<Gguf> {
    Gguf::from_bytes(Bytes::from(bytes))
}
