//! `moewe logits`: what a model computes for given tokens, as a safetensors file to compare with other programs.

use super::options::ModelOptions;
use super::{Command, output, target};
use anyhow::{Context, Result};
use clap::Parser;
use moewe_engine::gguf::Destination;
use moewe_engine::session::Engine;
use moewe_engine::tokenizer::Special;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::io::Write;
use std::path::PathBuf;

/// Write the logits of every given token to a safetensors file.
///
/// The file holds one tensor `logits`, tokens x vocabulary, in F32. The cache is F32 unless --cache-type says
/// otherwise.
#[derive(Parser)]
#[command(name = "logits", mut_arg("cache_type", |arg| arg.default_value("f32")))]
pub(super) struct Logits {
    #[command(flatten)]
    model: ModelOptions,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "text")]
    tokens: Vec<u32>,
    /// A text instead of ids; its tokens begin as the model wants texts to begin
    #[arg(long, conflicts_with = "tokens")]
    text: Option<String>,
    /// The file to write
    #[arg(short = 'o', long, value_name = "FILE")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

impl Command for Logits {
    fn run(self) -> Result<()> {
        let existing = target::existing(self.force);
        target::check(Some(&self.output), existing)?;
        let engine = self.model.open_to_score()?;
        target::refuse_model(&self.output, [engine.gguf()])?;
        let tokens = match &self.text {
            Some(text) => engine.tokenizer()?.encode_with_bos(text, Special::Plain)?,
            None => self.tokens.clone(),
        };
        let values = compute(&engine, &tokens)?;
        let shape = vec![tokens.len(), engine.config().vocab_size];
        let view = TensorView::new(Dtype::F32, shape, &values)?;
        let file = serialize([("logits", view)], None)?;
        let mut destination = Destination::stream(&self.output, existing)?;
        destination.write_all(&file).with_context(|| format!("{}: cannot write", self.output.display()))?;
        destination.publish()?;
        if !self.model.quiet {
            output::note(format!(
                "{} written to {}",
                output::counted(tokens.len(), "token"),
                self.output.display()
            ));
        }
        Ok(())
    }
}

/// Little-endian bytes of all logits.
fn compute(engine: &Engine, tokens: &[u32]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(tokens.len() * engine.config().vocab_size * 4);
    engine.session()?.extend_with_logits(tokens, |_, logits| {
        logits.iter().for_each(|logit| bytes.extend_from_slice(&logit.to_le_bytes()));
        Ok(())
    })?;
    Ok(bytes)
}
