//! A checkpoint as the source: its configuration becomes metadata, its tensors are found by the names and shapes of
//! their architecture, and the tokenizer beside it comes along.

use crate::checkpoint::Checkpoint;
use crate::hf::params::{Dim, Params};
use crate::hf::plan::{Output, Plan, plan};
use crate::hf::{Architecture, refuse_packed, templates, tokenizer};
use crate::report::Report;
use crate::source::{self, Change, Source, change_all};
use crate::tensor::{Rows, Subject, Tensor};
use crate::{general, vocabulary};
use moewe_engine::Result;
use moewe_engine::gguf::Metadata;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A model in a folder of Hugging Face, or in a trainer's file.
pub(crate) struct FromCheckpoint<'c> {
    checkpoint: &'c Checkpoint,
    metadata: Metadata,
    tensors: Vec<Tensor<'c>>,
    dropped: Vec<String>,
    remarks: Vec<String>,
}

impl<'c> FromCheckpoint<'c> {
    /// The checkpoint at `src`; `all_tokens` get rows in the embedding.
    pub(crate) fn new(checkpoint: &'c Checkpoint, src: &Path, all_tokens: bool) -> Result<Self> {
        refuse_packed(&checkpoint.config)?;
        let architecture = Architecture::of(&checkpoint.config)?;
        let mut params = architecture.params(&checkpoint.config)?;
        let mut metadata = architecture.metadata(&params)?;
        let mut remarks = checkpoint.leftovers.clone();
        remarks.extend(architecture.remarks(&checkpoint.config)?);
        let Plan { outputs, dropped, remarks: mut unusual } =
            plan(architecture, &params, checkpoint).map_err(|e| e.in_file(src))?;
        let mut tensors: Vec<Tensor> = outputs.into_iter().map(tensor).collect();
        if all_tokens {
            let (rows, wanted) = (params.dim(Dim::Vocab)?, tokenizer::rows_needed(&checkpoint.folder)?);
            if wanted > rows {
                vocabulary::widen(&mut tensors, wanted)?;
                unusual
                    .push(format!("{} tokens got rows of their own, the mean of all others", wanted - rows));
                params = params.with_vocabulary(wanted);
            }
            metadata = architecture.metadata(&params)?;
        }
        remarks.extend(describe(&mut metadata, checkpoint, src, &params)?);
        remarks.extend(unusual);
        Ok(Self { checkpoint, metadata, tensors, dropped, remarks })
    }
}

/// Adds what is not of the architecture: name, sampling, tokenizer and templates. Yields remarks.
fn describe(
    metadata: &mut Metadata,
    checkpoint: &Checkpoint,
    src: &Path,
    params: &Params,
) -> Result<Vec<String>> {
    general::set_name(metadata, src);
    general::set_layout_version(metadata);
    general::set_sampling(metadata, checkpoint)?;
    general::set_tokenizer(metadata, checkpoint, params)?;
    templates::set_chat_templates(&checkpoint.folder, metadata)
}

fn tensor(output: Output<'_>) -> Tensor<'_> {
    let stored = output.stored();
    let subject = Subject {
        name: output.name.clone(),
        shape: output.shape.clone(),
        stored,
        float: output.float(),
        is_original: stored.is_some(),
        padding: 0,
    };
    Tensor { subject, contents: Arc::new(output) }
}

impl Rows for Output<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        Output::read(self, rows, out);
        Ok(())
    }

    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        Output::copy(self, rows, out);
        Ok(())
    }
}

impl Source for FromCheckpoint<'_> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[Tensor<'_>] {
        &self.tensors
    }

    fn change(&mut self, change: &mut dyn Change) -> Result<()> {
        change_all(&mut self.tensors, change)
    }

    fn release(&self) {
        self.checkpoint.release();
    }

    fn tell(&self, report: &mut Report) {
        report.dropped = self.dropped.clone();
        report.remarks = self.remarks.clone();
    }

    /// The runtime has to take what was written: no file appears that cannot be opened.
    fn accept(&self, file: &Path) -> Result<()> {
        source::accept(file)
    }
}
