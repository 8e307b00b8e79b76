//! `moewe train shards`: corpora become rows of token ids. The work is [`crate::data::prepare`]'s.

use super::Command;
use super::watch::{print, watch};
use crate::Result;
use crate::data::corpus::Separator;
use crate::data::manifest::{Entry, Manifest};
use crate::data::prepare::{self, Dtype, Settings};
use clap::Parser;
use moewe_engine::os::interrupt;
use std::path::PathBuf;

/// Turn text into shards of token ids, the data that training reads
#[derive(Parser)]
#[command(name = "shards")]
pub(super) struct Shards {
    /// What to read: a file or folder (with all folders in it) of .txt, .jsonl or .parquet, with the field that holds the text
    #[arg(long, value_name = "[NAME=]PATH[:FIELD]", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Leave out and count lines of JSONL that hold no document, which else are errors
    #[arg(long)]
    skip_bad_lines: bool,
    /// What ends a document in plain text
    #[arg(long, value_name = "SEPARATOR", default_value = "blank-line")]
    documents: Separator,
    /// tokenizer.json, with tokenizer_config.json beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// The token after each document [default: eos_token of tokenizer_config.json]
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = 2048)]
    context: usize,
    /// Rows of a file
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rows_per_shard: u64,
    /// Share of the tokens that is held out for validation, in documents chosen by their content
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    holdout: f64,
    /// Keep documents that come again; else the first of them stays
    #[arg(long)]
    keep_duplicates: bool,
    /// Integers of the shards [default: the smallest that holds the vocabulary]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// The folder to write
    #[arg(short = 'o', long, value_name = "FOLDER")]
    output: PathBuf,
    /// Replace an existing dataset
    #[arg(long)]
    force: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Command for Shards {
    fn run(self) -> Result<()> {
        let listener = interrupt::listen_to_all();
        let sources = super::sources(&self.data, self.skip_bad_lines)?;
        let settings = Settings {
            sources: sources.clone(),
            separator: self.documents,
            tokenizer: self.tokenizer,
            eos: self.eos,
            context: self.context,
            rows_per_shard: self.rows_per_shard,
            holdout: self.holdout,
            deduplicate: !self.keep_duplicates,
            dtype: self.dtype,
            force: self.force,
            stop: listener.flag(),
        };
        let manifest = prepare::prepare(&settings, &self.output, &mut watch(self.quiet))?;
        super::tell_bad_lines(&sources);
        report(&manifest)
    }
}

/// A line per source, and one for all.
fn report(manifest: &Manifest) -> Result<()> {
    let total = Some(manifest.total()).filter(|_| manifest.sources.len() > 1);
    for source in manifest.sources.iter().chain(&total) {
        print(line(source))?;
    }
    Ok(())
}

fn line(source: &Entry) -> String {
    let Entry { name, duplicates, train, valid } = source;
    let bytes_per_token = (train.bytes + valid.bytes) as f64 / (train.tokens + valid.tokens).max(1) as f64;
    format!(
        "{name}: {} documents, {} duplicates left out; {} tokens, {bytes_per_token:.3} bytes per token; rows: {} to \
         train on, {} held out ({} documents)",
        train.documents + valid.documents,
        duplicates,
        train.tokens + valid.tokens,
        train.rows,
        valid.rows,
        valid.documents
    )
}
