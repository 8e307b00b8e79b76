//! `moewe train tokenizer`: a corpus becomes a tokenizer. The work is [`crate::data::tokenizer`]'s.

use super::Command;
use super::watch::{print, watch};
use crate::Result;
use crate::data::corpus::Separator;
use crate::data::tokenizer::{self, PRE_TOKENIZERS, Settings};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use moewe_engine::os::interrupt;
use std::path::PathBuf;

/// Train a byte-level BPE tokenizer on text
#[derive(Parser)]
#[command(name = "tokenizer")]
pub(super) struct TrainTokenizer {
    /// What to read: a file or folder (with all folders in it) of .txt, .jsonl or .parquet, with the field that holds the text
    #[arg(long, value_name = "[NAME=]PATH[:FIELD]", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Leave out and count lines of JSONL that hold no document, which else are errors
    #[arg(long)]
    skip_bad_lines: bool,
    /// What ends a document in plain text
    #[arg(long, value_name = "SEPARATOR", default_value = "blank-line")]
    documents: Separator,
    /// Tokens in all, the 256 bytes and the special ones included
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    vocabulary: usize,
    /// Whose rules find the words of a text
    #[arg(long, value_name = "NAME", default_value = PRE_TOKENIZERS[0].name, value_parser = names())]
    pre: String,
    /// A special token besides <|endoftext|>; may be repeated
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// The file to write; tokenizer_config.json is written beside it
    #[arg(short = 'o', long, value_name = "FILE", default_value = "tokenizer.json")]
    output: PathBuf,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    quiet: bool,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(PRE_TOKENIZERS.iter().map(|rules| rules.name))
}

impl Command for TrainTokenizer {
    fn run(self) -> Result<()> {
        tokenizer::check_free(&self.output, self.force)?;
        let rules = PRE_TOKENIZERS.iter().find(|rules| rules.name == self.pre);
        let listener = interrupt::listen_to_all();
        let sources = super::sources(&self.data, self.skip_bad_lines)?;
        let settings = Settings {
            sources: sources.clone(),
            separator: self.documents,
            vocabulary_size: self.vocabulary,
            rules: rules.unwrap_or(&PRE_TOKENIZERS[0]),
            special: self.special,
            stop: listener.flag(),
        };
        let (tokenizer, outcome) = tokenizer::train(&settings, &mut watch(self.quiet))?;
        super::tell_bad_lines(&sources);
        tokenizer::save(&tokenizer, &self.output, self.force)?;
        print(format!(
            "{}: {} tokens from {} documents, {:.1} MB, {} different words; {:.3} bytes per token",
            self.output.display(),
            outcome.vocabulary_size,
            outcome.documents,
            outcome.bytes as f64 / 1e6,
            outcome.words,
            outcome.bytes_per_token
        ))
    }
}
