//! `moewe compare`: what quantization cost, file by file against a base. Measuring is the engine's `eval`.

mod plot;

use super::models;
use super::options::bounded_threads;
use super::output::{self, Table};
use super::progress::Reading;
use super::{Command, target, text::read};
use crate::facts;
use anyhow::{Context, Result};
use clap::Parser;
use moewe_engine::eval::{Comparison, compare};
use moewe_engine::gguf::Destination;
use moewe_engine::session::{Engine, MemoryLimit, Options};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Compare files of a model with a base: perplexity, KL divergence, agreement of tokens and routers.
#[derive(Parser)]
#[command(name = "compare")]
pub(super) struct Compare {
    /// The file that the others should equal, such as BF16
    base: OsString,
    /// The files that are compared with it
    #[arg(required = true)]
    others: Vec<OsString>,
    /// The text file; `-` reads stdin
    #[arg(long, short = 'f', value_name = "FILE")]
    text: PathBuf,
    /// Tokens per chunk
    #[arg(long, short = 'c', value_name = "N", default_value_t = 512)]
    context: usize,
    /// Threads [default: one per core, where cores differ one per fast core]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// Draw bits per weight against divergence
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "svg")]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// One file with its figures.
struct Measured {
    name: String,
    bytes: u64,
    bits_per_weight: f64,
    figures: Comparison,
}

impl Command for Compare {
    fn run(self) -> Result<()> {
        target::check(self.svg.as_deref(), target::existing(self.force))?;
        let text = read(&self.text)?;
        let names: Vec<&OsString> = std::iter::once(&self.base).chain(&self.others).collect();
        let engines = names.iter().map(|name| self.open(name)).collect::<Result<Vec<_>>>()?;
        if let Some(path) = &self.svg {
            target::refuse_model(path, engines.iter().map(Engine::gguf))?;
        }
        let reading = Reading::begin(self.quiet);
        let others: Vec<&Engine> = engines[1..].iter().collect();
        let goes_on = |done, all| reading.goes_on(done, all);
        let figures = compare(&engines[0], &others, &text, self.context, goes_on)?;
        drop(reading);
        let measured = |((name, engine), figures): ((&&OsString, &Engine), Comparison)| Measured {
            name: name.to_string_lossy().into_owned(),
            bytes: engine.gguf().file_len(),
            bits_per_weight: facts::model(engine.gguf()).bits_per_weight(),
            figures,
        };
        let all: Vec<Measured> = names.iter().zip(&engines).zip(figures).map(measured).collect();
        if let Some(path) = &self.svg {
            self.draw(path, &all[1..])?;
        }
        if self.json {
            output::json(&all.iter().map(to_json).collect::<Vec<_>>())
        } else {
            table(&all).print()
        }
    }
}

impl Compare {
    fn draw(&self, path: &Path, measured: &[Measured]) -> Result<()> {
        let points = measured.iter().map(|m| (m.name.as_str(), m.bits_per_weight, m.figures.kl_mean));
        let drawn = plot::svg(&points.collect::<Vec<_>>());
        let mut file = Destination::stream(path, target::existing(self.force))?;
        file.write_all(drawn.as_bytes()).with_context(|| format!("{}: cannot write", path.display()))?;
        Ok(file.publish()?)
    }

    fn open(&self, name: &OsStr) -> Result<Engine> {
        let place = models::resolve(Some(name), false)?;
        let options = Options {
            threads: bounded_threads(self.threads),
            context: Some(self.context),
            all_logits: true,
            memory: MemoryLimit::of_each(1 + self.others.len()),
            ..Options::default()
        };
        Ok(Engine::from_gguf(place.open()?, options).map_err(|error| error.in_file(place.to_string()))?)
    }
}

fn to_json(measured: &Measured) -> serde_json::Value {
    json!({
        "model": measured.name,
        "bytes": measured.bytes,
        "bits_per_weight": measured.bits_per_weight,
        "figures": measured.figures,
    })
}

fn table(all: &[Measured]) -> Table {
    let heading = ["MODEL", "BITS", "PERPLEXITY", "BITS/BYTE", "KL", "KL 99 %", "KL MAX", "TOP-1", "ROUTERS"];
    let mut table = Table::new(&heading, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for Measured { name, bits_per_weight, figures, .. } in all {
        let routers = figures.routers.iter().map(|layer| layer.same).sum::<f64>();
        let routers = match figures.routers.len() {
            0 => "-".into(),
            layers => format!("{:.2} %", 100.0 * routers / layers as f64),
        };
        table.row([
            output::excerpt(name, 60),
            format!("{bits_per_weight:.3}"),
            format!("{:.4}", figures.perplexity),
            format!("{:.4}", figures.bits_per_byte),
            format!("{:.6}", figures.kl_mean),
            format!("{:.5}", figures.kl_99),
            format!("{:.4}", figures.kl_max),
            format!("{:.2} %", 100.0 * figures.top1),
            routers,
        ]);
    }
    table
}
