//! Small models made for tests, their weights out of a counter.

use crate::gguf::{Bytes, Gguf, Metadata, Writer};
use crate::quant::Format;

/// A file of an architecture with whole numbers under its keys and F32 tensors, the row length of each first.
pub(super) fn file(architecture: &str, numbers: &[(&str, u32)], tensors: &[(String, Vec<u64>)]) -> Gguf {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture);
    for (key, value) in numbers {
        metadata.set(format!("{architecture}.{key}"), *value);
    }
    let format = Format::by_name("F32").unwrap();
    let declared = tensors.iter().map(|(name, shape)| (name.clone(), format, shape.clone())).collect();
    let mut file = Writer::new(metadata, declared).unwrap().over(Vec::new()).unwrap();
    let mut counter = 0u32;
    for (name, shape) in tensors {
        let weight = |_| {
            counter = counter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (counter >> 8) as f32 / (1 << 24) as f32 - 0.4
        };
        let bytes: Vec<u8> = (0..shape.iter().product()).map(weight).flat_map(f32::to_le_bytes).collect();
        file.begin(name).unwrap();
        file.append(&bytes).unwrap();
        file.end().unwrap();
    }
    Gguf::from_bytes(Bytes::from(file.into_inner().unwrap())).unwrap()
}
