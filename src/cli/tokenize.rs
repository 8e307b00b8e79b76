//! `moewe tokenize`: text to token ids and back, with nothing but the file's vocabulary.

use super::output::{self, Table};
use super::{Command, models, text};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_engine::tokenizer::{Special, Tokenizer};
use serde_json::json;
use std::ffi::OsString;

/// Show the tokens of a text, or the text of tokens.
#[derive(Parser)]
#[command(name = "tokenize")]
pub(super) struct Tokenize {
    /// A GGUF file, the first part of a split one, a name from `moewe list` or a remote one
    model: OsString,
    /// The text; `-` or nothing reads stdin
    text: Option<String>,
    /// Read control tokens such as `<|im_end|>` as tokens, not as text
    #[arg(long)]
    special: bool,
    /// Begin with the begin-of-text token, where the model wants one
    #[arg(long)]
    bos: bool,
    /// Print the ids on one line, separated by commas, as `--tokens` takes them
    #[arg(long)]
    ids: bool,
    /// Print the text of these ids instead
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["text", "special", "bos", "ids"])]
    decode: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Tokenize {
    fn run(self) -> Result<()> {
        let place = models::resolve(Some(&self.model), false)?;
        let gguf = place.open()?;
        let tokenizer =
            Tokenizer::from_metadata(gguf.metadata()).map_err(|error| error.in_file(place.to_string()))?;
        let tokenizer = tokenizer.with_context(|| format!("{place}: this file has no tokenizer"))?;
        let tokens = self.tokens(&tokenizer)?;
        if !self.decode.is_empty() && !self.json {
            return output::print(tokenizer.decode(&tokens));
        }
        if self.ids {
            let ids: Vec<_> = tokens.iter().map(u32::to_string).collect();
            return output::print(ids.join(","));
        }
        if self.json { print_json(&tokenizer, &tokens) } else { print_table(&tokenizer, &tokens) }
    }
}

impl Tokenize {
    fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let size = tokenizer.vocabulary_size();
        if let Some(unknown) = self.decode.iter().find(|&&id| id as usize >= size) {
            bail!("token {unknown} is outside the vocabulary of {size}");
        }
        if !self.decode.is_empty() {
            return Ok(self.decode.clone());
        }
        let text = text::given_or_stdin(self.text.as_deref())?;
        let special = if self.special { Special::Parse } else { Special::Plain };
        Ok(if self.bos {
            tokenizer.encode_with_bos(&text, special)?
        } else {
            tokenizer.encode(&text, special)?
        })
    }
}

fn print_json(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<()> {
    let pieces: Vec<_> =
        tokens.iter().map(|&id| String::from_utf8_lossy(tokenizer.piece_bytes(id)).into_owned()).collect();
    output::json(&json!({ "tokens": tokens, "pieces": pieces, "text": tokenizer.decode(tokens) }))
}

fn print_table(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<()> {
    let mut table = Table::new(&["TOKEN", "TEXT"], &[0]);
    for &token in tokens {
        let piece = String::from_utf8_lossy(tokenizer.piece_bytes(token));
        table.row([token.to_string(), format!("{piece:?}")]);
    }
    table.print()
}
