//! `moewe perplexity`: how well a model predicts a text. Cutting and counting is the engine's `eval`.

use super::options::ModelOptions;
use super::progress::Reading;
use super::{Command, output, text::read};
use anyhow::{Result, bail};
use clap::Parser;
use moewe_engine::eval::{Perplexity, perplexity};
use moewe_engine::os::memory;
use moewe_engine::session::Engine;
use serde_json::json;
use std::path::PathBuf;
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
        let engine = self.model.open_to_score()?;
        let reading = Reading::begin(self.model.quiet);
        let start = Instant::now();
        let measured = perplexity(&engine, &text, engine.context_length(), |done, all, perplexity| {
            reading.say(format!(", perplexity {perplexity:.4}"));
            reading.goes_on(done, all)
        })?;
        let time = start.elapsed();
        drop(reading);
        if !measured.perplexity.is_finite() {
            bail!(
                "the perplexity is {}: the model's numbers are broken (NaN or infinite)",
                measured.perplexity
            );
        }
        if self.json { print_json(&engine, &measured, time) } else { print(&measured) }
    }
}

fn print(measured: &Perplexity) -> Result<()> {
    output::print(format!("perplexity     {:.4}", measured.perplexity))?;
    output::print(format!("bits per byte  {:.4}", measured.bits_per_byte))?;
    output::print(format!(
        "tokens         {} in {}",
        measured.tokens,
        output::counted(measured.chunks, "chunk")
    ))
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
