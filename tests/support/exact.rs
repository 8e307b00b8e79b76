//! Numbers of references and of files as floats, what a model makes of tokens without rounding its inputs, and how far
//! apart two lists of numbers are.

#![allow(dead_code, reason = "each test uses what it needs")]

use moewe_engine::gguf::Gguf;
use moewe_engine::session::{Engine, Options, cache_format};
use moewe_engine::simd::Isa;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors with their shapes, by name.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// All tensors of a safetensors file.
pub(crate) fn tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |(name, view): (String, TensorView)| {
        let (pairs, quads) = (view.data().as_chunks::<2>().0, view.data().as_chunks::<4>().0);
        let values = match view.dtype() {
            Dtype::BF16 => pairs.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::F32 => quads.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::I32 => quads.iter().map(|&b| i32::from_le_bytes(b) as f32).collect(),
            Dtype::I64 => {
                view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as f32).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        (name, (view.shape().to_vec(), values))
    };
    file.tensors().into_iter().map(floats).collect()
}

/// A tensor of a GGUF file.
pub(crate) fn of_file(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let mut values = vec![0.0; tensor.elements() as usize];
    (tensor.format.dequantize)(&gguf.bytes(tensor), &mut values);
    values
}

/// Logits of all tokens, on the widest instruction set that does not round inputs to BF16, as tiles do.
pub(crate) fn exact(context: usize) -> Options {
    Options {
        isa: Isa::available().filter(|isa| *isa != Isa::Amx).last(),
        cache: cache_format("f32").unwrap(),
        all_logits: true,
        context: Some(context),
        ..Options::default()
    }
}

/// Logits of all tokens, one row after the other.
pub(crate) fn logits(gguf: Gguf, tokens: &[u32], options: Options) -> Vec<f32> {
    let engine = Engine::from_gguf(gguf, options).unwrap();
    let mut session = engine.session().unwrap();
    let mut all = Vec::new();
    session
        .extend_with_logits(tokens, |_, logits| {
            all.extend_from_slice(logits);
            Ok(())
        })
        .unwrap();
    all
}

/// The largest difference.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The same, relative to the largest expected number.
pub(crate) fn relative(found: &[f32], expected: &[f32]) -> f32 {
    difference(found, expected) / expected.iter().fold(0f32, |most, value| most.max(value.abs()))
}
