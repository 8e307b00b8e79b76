//! How much each matrix matters: how far the model's predictions diverge when it alone is rounded coarsely.
//!
//! A model with one changed matrix is the base with other bytes in one place, so some of them share one pass of the
//! base over the text. Divided by the rounding's error, the divergence tells the budget what an error costs there.

use super::calibration::fitting;
use super::guide::{Guide, Sensitivities};
use super::inputs::Inputs;
use crate::recipe::{by_name, is_quantizable};
use crate::sample::relative_error;
use crate::tensor::{Subject, Tensor, head_of};
use moewe_engine::eval::compare_chunks;
use moewe_engine::quant::Format;
use moewe_engine::session::{Engine, MemoryLimit, Options};
use moewe_engine::{Error, Result};
use rayon::prelude::*;
use std::collections::HashMap;

/// Changed models that are compared in one pass of the base, at most.
const AT_ONCE: usize = 8;
/// Pieces of text that are enough for this, and how many tokens of each.
const CHUNKS: usize = 4;
const TOKENS: usize = 256;

/// Measures all matrices of `base`, which are `tensors`, that could be quantized. The changed models of a pass may take
/// `bytes` together.
pub(crate) fn measure(
    base: &Engine,
    tensors: &[Tensor],
    chunks: &[Vec<u32>],
    bytes: u64,
    guide: &Guide,
    heard: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Sensitivities> {
    let head = head_of(tensors);
    let is_candidate = |tensor: &&Tensor| is_quantizable(guide.question(&tensor.subject, head));
    let candidates: Vec<&Tensor> = tensors.iter().filter(is_candidate).collect();
    // From all over the text.
    let step = (chunks.len() / CHUNKS).max(1);
    let beginning = |chunk: &Vec<u32>| chunk[..chunk.len().min(TOKENS)].to_vec();
    let chunks: Vec<Vec<u32>> = chunks.iter().step_by(step).take(CHUNKS).map(beginning).collect();
    let (mut found, mut done) = (HashMap::new(), 0);
    while done < candidates.len() {
        // Half for the changed tensors, half for the experts that the models hold.
        let sizes = candidates[done..].iter().take(AT_ONCE).map(|tensor| bf16_bytes(&tensor.subject));
        let some = &candidates[done..][..fitting(sizes, bytes / 2)];
        let slots = MemoryLimit::Experts(bytes / 2 / some.len() as u64);
        let changed = some.iter().map(|tensor| changed(base, tensor, slots)).collect::<Result<Vec<_>>>()?;
        let others: Vec<&Engine> = changed.iter().collect();
        let figures = compare_chunks(base, &others, &chunks, |_, _| heard(done, candidates.len()))?;
        for (tensor, figures) in some.iter().zip(&figures[1..]) {
            let importance = guide.importance(&Inputs::of(&tensor.subject, head));
            let error = relative_error(tensor, coarse(&tensor.subject), importance.as_deref())?;
            found.insert(tensor.subject.name.clone(), figures.kl_mean / error.max(f64::MIN_POSITIVE));
        }
        done += some.len();
        if !heard(done, candidates.len()) {
            return Err(Error::Stopped);
        }
    }
    Ok(found)
}

/// A format that does harm which can be told from noise.
fn coarse(tensor: &Subject) -> &'static Format {
    let fits = |format: &&Format| tensor.columns().is_multiple_of(format.block_len as u64);
    ["Q3_K", "Q4_0"].map(by_name).into_iter().find(fits).unwrap_or(by_name("F16"))
}

fn bf16_bytes(tensor: &Subject) -> u64 {
    2 * tensor.weights()
}

/// The base with one tensor rounded. The rounded weights are BF16, whose products are as exact as the base's.
fn changed(base: &Engine, tensor: &Tensor, slots: MemoryLimit) -> Result<Engine> {
    let (format, bf16) = (coarse(&tensor.subject), by_name("BF16"));
    let columns = tensor.subject.columns();
    let mut bytes = vec![0; bf16_bytes(&tensor.subject) as usize];
    let row_bytes = columns as usize * bf16.block_bytes;
    bytes.par_chunks_mut(row_bytes).enumerate().try_for_each_init(
        || (vec![0f32; columns as usize], vec![0u8; format.bytes_for(columns).unwrap_or(0) as usize]),
        |(weights, blocks), (row, bytes)| {
            tensor.contents.read(row as u64..row as u64 + 1, weights)?;
            if let (Some(round), Some(store)) = (format.quantize, bf16.quantize) {
                round(weights, None, blocks);
                (format.dequantize)(blocks, weights);
                store(weights, None, bytes);
            }
            Ok(())
        },
    )?;
    let gguf = base.gguf().with_tensor(&tensor.subject.name, bf16, bytes)?;
    Engine::from_gguf(gguf, Options { memory: Some(slots), ..base.options().clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_gguf::FromGguf;
    use crate::source::Source;
    use std::path::Path;

    #[test]
    fn memory_changes_no_figure() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/moewe-mini/moewe-mini.gguf");
        let base = Engine::open(model, Options { context: Some(8), ..Options::default() }).unwrap();
        let chunks: Vec<Vec<u32>> = (0..2).map(|i| (i..i + 8).map(|j| 300 + 37 * j).collect()).collect();
        let source = FromGguf::new(base.gguf());
        let measured = |bytes, heard| {
            measure(&base, source.tensors(), &chunks, bytes, &Guide::default(), &mut |_, _| heard)
        };
        let figures = measured(1 << 30, true).unwrap();
        assert!(figures.len() > 40 && figures.values().any(|&figure| figure > 0.0));
        assert_eq!(measured(0, true).unwrap(), figures);
        assert!(matches!(measured(0, false), Err(Error::Stopped)));
    }
}
