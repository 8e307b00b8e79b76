//! `moewe perplexity`: how well a model predicts a text. Cutting and counting is the engine's `eval`.

use super::options::ModelOptions;
use super::tokenize::text_or_stdin;
use super::{Command, output};
use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use moewe_engine::eval::{Perplexity, perplexity};
use moewe_engine::os::{interrupt, memory};
use moewe_engine::session::Engine;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Measure a model's perplexity on a text, in chunks as llama.cpp cuts them.
#[derive(Parser)]
#[command(name = "perplexity", mut_arg("context", |arg| arg.default_value("512").help("Tokens per chunk")))]
pub(super) struct Measure {
    #[command(flatten)]
    model: ModelOptions,
    /// The text file; `-` reads stdin
    #[arg(long, short = 'f', value_name = "FILE")]
    text: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Measure {
    fn run(self) -> Result<()> {
        let text = read(&self.text)?;
        let engine = self.model.open()?;
        let bar = if self.model.quiet { ProgressBar::hidden() } else { progress_bar() };
        let listener = interrupt::listen();
        let start = Instant::now();
        let measured = perplexity(&engine, &text, engine.context_length(), |done, all, perplexity| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("{perplexity:.4}"));
            !listener.is_raised()
        });
        bar.finish_and_clear();
        let (measured, time) = (measured?, start.elapsed());
        if self.json { print_json(&engine, &measured, time) } else { print(&measured) }
    }
}

/// A text file; bytes that are not UTF-8 are replaced, since they are part of many corpora.
pub(super) fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return text_or_stdin(None);
    }
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Shown on a terminal only.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} chunks, {eta} left, perplexity {msg}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(measured: &Perplexity) -> Result<()> {
    output::print(format!("perplexity     {:.4}", measured.perplexity))?;
    output::print(format!("bits per byte  {:.4}", measured.bits_per_byte))?;
    output::print(format!("tokens         {} in {} chunks", measured.tokens, measured.chunks))
}

fn print_json(engine: &Engine, measured: &Perplexity, time: Duration) -> Result<()> {
    let computed = measured.chunks * engine.context_length();
    output::json(&json!({
        "perplexity": measured.perplexity,
        "bits_per_byte": measured.bits_per_byte,
        "tokens": measured.tokens,
        "chunks": measured.chunks,
        "context": engine.context_length(),
        "prefill_tokens_per_second": computed as f64 / time.as_secs_f64(),
        "load_ms": engine.load_time().as_secs_f64() * 1e3,
        "peak_memory_bytes": memory::peak_resident(),
    }))
}
