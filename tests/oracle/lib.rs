//! Somebody else's reader of GGUF finds in our files what we wrote: every kind of metadata, every format, every place.
//!
//! Run by `cargo test --manifest-path tests/oracle/Cargo.toml`.

#![cfg(test)]

use gguf_rs::{GGUFModel, get_gguf_container_array_size};
use moewe_engine::gguf::{Array, Gguf, Metadata, Strings, Value, Writer};
use moewe_engine::quant::{FORMATS, Format};
use std::path::Path;

/// Formats whose tensors it takes for blocks of 256 weights, which they are not; where they lie it knows all the same.
const MISCOUNTED: [&str; 3] = ["BF16", "IQ4_NL", "MXFP4"];

fn theirs(path: &Path) -> GGUFModel {
    get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap().decode().unwrap()
}

fn written(metadata: Metadata, tensors: Vec<(String, &'static Format, Vec<u64>)>, path: &Path) -> Gguf {
    let mut writer = Writer::new(metadata, tensors).unwrap().create(path).unwrap();
    let mut fill = 0u8;
    while let Some(len) = writer.next_tensor().map(|tensor| tensor.byte_len() as usize) {
        fill += 1;
        writer.write_tensor(&vec![fill; len]).unwrap();
    }
    writer.finish().unwrap();
    Gguf::open(path).unwrap()
}

/// Whether a value is told alike; numbers by what they are written as, floats by what they are.
fn is_same(own: &Value, other: &serde_json::Value) -> bool {
    let is = |number: &dyn std::fmt::Display| other.is_number() && other.to_string() == number.to_string();
    match own {
        Value::String(text) => other.as_str() == Some(text),
        Value::Bool(flag) => other.as_bool() == Some(*flag),
        Value::F32(number) => other.as_f64().is_some_and(|found| found as f32 == *number),
        Value::F64(number) => other.as_f64() == Some(*number),
        Value::U8(n) => is(n),
        Value::I8(n) => is(n),
        Value::U16(n) => is(n),
        Value::I16(n) => is(n),
        Value::U32(n) => is(n),
        Value::I32(n) => is(n),
        Value::U64(n) => is(n),
        Value::I64(n) => is(n),
        Value::Array(array) => {
            let own: Vec<Value> = match array {
                Array::Strings(all) => all.iter().map(|text| Value::String(text.to_owned())).collect(),
                Array::U32(all) => all.iter().map(|&n| Value::U32(n)).collect(),
                Array::I32(all) => all.iter().map(|&n| Value::I32(n)).collect(),
                Array::F32(all) => all.iter().map(|&n| Value::F32(n)).collect(),
                Array::Bool(all) => all.iter().map(|&flag| Value::Bool(flag)).collect(),
                _ => panic!("no array of this kind is written here"),
            };
            let other = other.as_array().map(Vec::as_slice).unwrap_or_default();
            own.len() == other.len() && own.iter().zip(other).all(|(own, other)| is_same(own, other))
        }
    }
}

#[test]
fn metadata_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut metadata = Metadata::new();
    let values = [
        Value::U8(u8::MAX),
        Value::I8(i8::MIN),
        Value::U16(u16::MAX),
        Value::I16(i16::MIN),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F32(0.1),
        Value::F64(-1e-300),
        Value::Bool(true),
        Value::String("Möwe".to_owned()),
        Value::Array(Array::Strings(Strings::new(["", "Möwe", "a\0b"]))),
        Value::Array(Array::U32(vec![0, u32::MAX])),
        Value::Array(Array::I32(vec![i32::MIN, 7])),
        Value::Array(Array::F32(vec![0.1, -2.5e10])),
        Value::Array(Array::Bool(vec![true, false, true])),
    ];
    for (at, value) in values.iter().enumerate() {
        metadata.set(format!("test.{at}"), value.clone());
    }
    written(metadata, vec![], &path);
    let model = theirs(&path);
    assert_eq!(model.num_kv(), values.len() as u64);
    for (at, value) in values.iter().enumerate() {
        let found = &model.metadata()[&format!("test.{at}")];
        assert!(is_same(value, found), "{value:?} is read as {found}");
    }
}

#[test]
fn tensors_lie_where_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    for alignment in [32u32, 64] {
        let path = folder.path().join(format!("{alignment}.gguf"));
        let mut metadata = Metadata::new();
        metadata.set("general.alignment", alignment);
        let shape = |at: usize| vec![256, [1, 3, 8][at % 3], 2][..1 + at % 3].to_vec();
        let tensors = FORMATS.iter().enumerate().map(|(at, format)| (format!("t.{at}"), format, shape(at)));
        let gguf = written(metadata, tensors.collect(), &path);
        let (model, bytes) = (theirs(&path), std::fs::read(&path).unwrap());
        assert_eq!((model.alignment(), model.tensors().len()), (alignment.into(), FORMATS.len()));
        for (own, other) in gguf.tensors().iter().zip(model.tensors()) {
            assert_eq!((&own.name, own.format.id, &own.shape), (&other.name, other.kind, &other.shape));
            let start = (model.data_offset() + other.offset) as usize;
            let found = &bytes[start..][..own.byte_len() as usize];
            assert!(found == &*gguf.bytes(own), "{} of {}", own.name, own.format);
            let is_counted = !MISCOUNTED.contains(&own.format.name);
            assert_eq!(own.byte_len() == other.size, is_counted, "{}: {} bytes", own.format, other.size);
        }
    }
}
