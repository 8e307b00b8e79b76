//! A configuration as the source: the tensors that a whole checkpoint of it would make, with numbers in the place of
//! weights, so that a plan can be made of a model that is not there.

use crate::hf::Architecture;
use crate::hf::plan::shapes;
use crate::report::Report;
use crate::source::{Change, Source, change_all};
use crate::tensor::{Rows, Subject, Tensor};
use moewe_engine::Result;
use moewe_engine::gguf::Metadata;
use moewe_engine::sampler::Random;
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A model that nobody has trained.
pub(crate) struct FromConfig {
    metadata: Metadata,
    tensors: Vec<Tensor<'static>>,
}

impl FromConfig {
    pub(crate) fn new(config: &Value) -> Result<Self> {
        let architecture = Architecture::of(config)?;
        let params = architecture.params(config)?;
        let mut metadata = architecture.metadata(&params)?;
        metadata.set("tokenizer.ggml.model", "none");
        // Rows of one length are the same in all tensors, so what a format does to them is measured once.
        let mut rows: HashMap<u64, Arc<dyn Rows>> = HashMap::new();
        let mut tensor = |(name, shape): (String, Vec<u64>)| {
            let subject = Subject { name, shape, stored: None, float: None, is_original: false, padding: 0 };
            let columns = subject.columns();
            let contents = rows.entry(columns).or_insert_with(|| Arc::new(Normal { columns }));
            Tensor { contents: contents.clone(), subject }
        };
        let tensors = shapes(architecture, &params)?.into_iter().map(&mut tensor).collect();
        Ok(Self { metadata, tensors })
    }
}

impl Source for FromConfig {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[Tensor<'_>] {
        &self.tensors
    }

    fn change(&mut self, change: &mut dyn Change) -> Result<()> {
        change_all(&mut self.tensors, change)
    }

    fn release(&self) {}

    fn tell(&self, _: &mut Report) {}
}

/// Rows of normal numbers, as initial weights are: of deviation `1/sqrt(columns)`, by the number of the row.
struct Normal {
    columns: u64,
}

impl Rows for Normal {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let deviation = 1.0 / (self.columns as f64).sqrt();
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns as usize)) {
            let mut random = Random::new(row);
            out.iter_mut().for_each(|out| *out = (deviation * random.normal()) as f32);
        }
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        unreachable!("numbers have no format that they are stored in")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::from_checkpoint::FromCheckpoint;
    use std::path::Path;

    #[test]
    fn tensors_are_those_of_a_checkpoint_with_this_configuration() {
        for name in ["mixtral", "llama-dense", "qwen2moe", "qwen3moe", "deepseek2", "granitehybrid"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
            let checkpoint = Checkpoint::open(&folder).unwrap();
            let whole = FromCheckpoint::new(&checkpoint, &folder, false).unwrap();
            let planned = FromConfig::new(&checkpoint.config).unwrap();
            let shapes = |source: &dyn Source| -> Vec<(String, Vec<u64>)> {
                let subjects = source.tensors().iter().map(|tensor| &tensor.subject);
                subjects.map(|subject| (subject.name.clone(), subject.shape.clone())).collect()
            };
            assert_eq!(shapes(&planned), shapes(&whole), "{name}");
        }
    }

    #[test]
    fn numbers_have_their_deviation_and_their_row() {
        let rows = Normal { columns: 256 };
        let mut out = vec![0.0; 4 * 256];
        rows.read(3..7, &mut out).unwrap();
        let square = out.iter().map(|x| x * x).sum::<f32>() / out.len() as f32;
        assert!((square * 256.0 - 1.0).abs() < 0.2, "{square}");
        let mut one = vec![0.0; 256];
        rows.read(5..6, &mut one).unwrap();
        assert_eq!(one, out[2 * 256..3 * 256]);
    }
}
