//! `moewe bench`: how fast a model loads, reads prompts and generates, and what memory it takes.
//!
//! Prefill and decode each start from an empty cache; the numbers are medians. Token ids are arbitrary but the same
//! every time: what they are does not matter, except for which experts they reach. `bench/` has the kernels alone and
//! runs in turns with another program.

mod kernels;
mod peer;

use super::options::{self, ModelOptions, byte_rate, within};
use super::output::{self, Table};
use super::{Command, heat};
use crate::facts;
use anyhow::{Result, bail};
use clap::Parser;
use moewe_engine::eval::machine::ReadBench;
use moewe_engine::experts::{Statistics, Trace};
use moewe_engine::model::Model;
use moewe_engine::os::{interrupt, memory};
use moewe_engine::session::{Engine, Measuring, Session};
use moewe_engine::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Tokens of a prompt or an answer, of which a list is made.
const MOST_TOKENS: usize = 1 << 28;

/// Measure prefill and decode speed, load time and memory.
#[derive(Parser)]
#[command(name = "bench")]
pub(super) struct Bench {
    #[command(flatten)]
    model: ModelOptions,
    /// Tokens of the prompt; 0 leaves prefill out
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = within::<0, MOST_TOKENS>)]
    prompt: usize,
    /// Tokens to generate; 0 leaves decode out
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = within::<0, MOST_TOKENS>)]
    generate: usize,
    /// Repetitions, of which the median counts
    #[arg(short = 'r', long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Measure opening the file only
    #[arg(long)]
    load: bool,
    /// Measure the matrix kernels alone, of these formats or of all; needs no model
    #[arg(long, value_name = "FORMAT", num_args = 0.., conflicts_with = "load")]
    kernels: Option<Vec<String>>,
    /// A llama-bench, with its options, to measure in turns with this program; may come several times
    #[arg(long, value_name = "CMD", conflicts_with_all = ["load", "kernels"])]
    peer: Vec<String>,
    /// Take the choices of experts from a recording of `moewe experts --trace` instead of from the routers: another
    /// model's routing, for which the expert store then works
    #[arg(long, value_name = "TRACE")]
    route: Option<PathBuf>,
    /// Slow reads of experts down to so many bytes per second: 3G, 500M
    #[arg(long, value_name = "RATE", value_parser = byte_rate)]
    disk: Option<f64>,
    /// Read experts past the page cache, also where it has room
    #[arg(long)]
    direct: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Bench {
    fn run(mut self) -> Result<()> {
        if let Some(formats) = &self.kernels {
            return kernels::run(&self, formats);
        }
        if !self.peer.is_empty() {
            return peer::run(&self);
        }
        let figures = if self.load { self.load_figures()? } else { self.speed_figures()? };
        if self.json { output::json(&figures) } else { print(&figures) }
    }
}

impl Bench {
    /// Opening, by its parts. The engine builds tokenizer and model at the same time.
    fn load_figures(&self) -> Result<Value> {
        let place = self.model.place()?;
        let open_ms = self.median(|| timed(|| place.open()))?;
        let gguf = place.open()?;
        let tokenizer_ms = self.median(|| timed(|| Tokenizer::from_metadata(gguf.metadata())))?;
        let mut figures =
            json!({ "model": place.to_string(), "open_ms": open_ms, "tokenizer_ms": tokenizer_ms });
        if !gguf.tensors().is_empty() {
            figures["bind_ms"] = self.median(|| timed(|| Model::bind(&gguf)))?.into();
            let options = self.model.options()?;
            figures["load_ms"] =
                self.median(|| timed(|| Engine::from_gguf(place.open()?, options.clone())))?.into();
        }
        figures["peak_memory_bytes"] = memory::peak_resident().into();
        Ok(figures)
    }

    fn speed_figures(&mut self) -> Result<Value> {
        self.model.context.get_or_insert(self.prompt.max(self.generate).max(1));
        let engine = self.model.open_measured(self.measuring()?)?;
        let (wanted, context) = (self.prompt.max(self.generate), engine.context_length());
        if wanted > context {
            bail!(
                "{wanted} tokens do not fit the context of {context} positions; lower --prompt and --generate"
            );
        }
        let mut session = engine.session()?;
        let listener = interrupt::listen();
        session.stop_on(listener.flag());
        // The first pass reads the weights from the disk and packs the experts that the prompt wants: all of it, as other
        // programs warm up too.
        prefill(&mut session, self.prompt.max(1))?;
        let prefill =
            (self.prompt > 0).then(|| self.median(|| prefill(&mut session, self.prompt))).transpose()?;
        let before = engine.expert_statistics();
        let decode =
            (self.generate > 0).then(|| self.median(|| decode(&mut session, self.generate))).transpose()?;
        let mut figures = self.report(&engine, prefill, decode);
        if let (Some(before), Some(after)) = (before, engine.expert_statistics())
            && heat::has_experts(&after)
            && self.generate > 0
        {
            self.report_experts(&engine, &after.since(&before), &mut figures);
        }
        // What is measured for this must not share the memory with the model.
        let (threads, is_on_card) = (engine.hardware().0, engine.memory().card.is_some());
        drop(session);
        drop(engine);
        if is_on_card {
            // How fast a card reads is not measured here: the processor's rate is no limit of it.
            figures["threads"] = Value::Null;
        } else {
            report_limit(ReadBench::new(threads)?.bytes_per_second(), &mut figures);
        }
        Ok(figures)
    }

    fn measuring(&self) -> Result<Measuring> {
        let route = self.route.as_deref().map(Trace::read).transpose()?.map(Arc::new);
        Ok(Measuring { disk_rate: self.disk, direct_reads: self.direct, route })
    }

    /// What the expert store did while tokens were generated.
    fn report_experts(&self, engine: &Engine, counted: &Statistics, figures: &mut Value) {
        let direct = engine.reads_are_direct();
        let tokens = (self.generate * usize::from(self.repetitions)) as f64;
        figures["expert_slots"] = counted.layers.iter().map(|layer| layer.slots).sum::<usize>().into();
        figures["decode_expert_hit_rate"] = counted.hit_rate().into();
        figures["decode_bytes_read_per_token"] = ((counted.bytes_read as f64 / tokens) as u64).into();
        figures["decode_stall_ms_per_token"] = (counted.stall_ms() / tokens).into();
        for (name, time) in [
            ("decode_disk_busy_ms_per_token", counted.disk_busy),
            ("decode_disk_hidden_ms_per_token", counted.hidden),
            ("decode_packing_ms_per_token", counted.packing),
            ("decode_wasted_ms_per_token", counted.wasted),
        ] {
            figures[name] = (time.as_secs_f64() * 1e3 / tokens).into();
        }
        figures["expert_reads"] =
            if direct { "past the page cache" } else { "through the page cache" }.into();
        figures["are_experts_packed"] = engine.has_packed_experts().into();
        figures["decode_reads_at_a_time"] = counted.depth().into();
    }

    fn report(&self, engine: &Engine, prefill_ms: Option<f64>, decode_ms: Option<f64>) -> Value {
        let (threads, isa) = engine.hardware();
        let rate = |tokens: usize, ms: Option<f64>| ms.map(|ms| tokens as f64 * 1e3 / ms);
        json!({
            "model": options::describe(engine.gguf()),
            "architecture": facts::architecture(engine.gguf()),
            "format": facts::main_format(engine.gguf()),
            "threads": threads,
            "isa": isa,
            "prompt_tokens": self.prompt,
            "generated_tokens": self.generate,
            "repetitions": self.repetitions,
            "prefill_tokens_per_second": rate(self.prompt, prefill_ms),
            "decode_tokens_per_second": rate(self.generate, decode_ms),
            "load_ms": engine.load_time().as_secs_f64() * 1e3,
            "peak_memory_bytes": memory::peak_resident(),
            "bytes_per_token": engine.bytes_per_token(),
        })
    }

    fn median(&self, mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
        Ok(median((0..self.repetitions).map(|_| measure()).collect::<Result<Vec<_>>>()?))
    }
}

/// The middle of at least one number.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 }
}

/// How many tokens a second the bytes of a token allow, and what share of them there is.
fn report_limit(read_rate: f64, figures: &mut Value) {
    figures["read_rate_bytes_per_second"] = (read_rate as u64).into();
    let limit = figures["bytes_per_token"].as_f64().map(|bytes| read_rate / bytes.max(1.0));
    figures["byte_limit_tokens_per_second"] = limit.into();
    let decoded = figures["decode_tokens_per_second"].as_f64();
    figures["decode_share_of_byte_limit"] = decoded.zip(limit).map(|(decoded, limit)| decoded / limit).into();
}

/// Milliseconds of `work`; dropping its result is not part of them.
fn timed<T>(work: impl FnOnce() -> moewe_engine::Result<T>) -> Result<f64> {
    let start = Instant::now();
    let made = work()?;
    let time = start.elapsed();
    drop(made);
    Ok(time.as_secs_f64() * 1e3)
}

fn prefill(session: &mut Session<'_>, count: usize) -> Result<f64> {
    session.rewind(0);
    let tokens = tokens(session, count);
    timed(|| session.extend(&tokens))
}

fn decode(session: &mut Session<'_>, count: usize) -> Result<f64> {
    session.rewind(0);
    let tokens = tokens(session, count);
    timed(|| tokens.iter().try_for_each(|&token| session.extend(&[token])))
}

/// A walk through the vocabulary by a multiplicative generator (Lehmer's, modulus 2^31 - 1).
fn tokens(session: &Session<'_>, count: usize) -> Vec<u32> {
    let size = session.engine().config().vocab_size as u64;
    let steps = std::iter::successors(Some(1u64), |&state| Some(state * 48_271 % 0x7fff_ffff));
    steps.map(|state| (state % size) as u32).take(count).collect()
}

fn print(figures: &Value) -> Result<()> {
    let mut table = Table::new(&["MEASURED", "VALUE"], &[]);
    for (key, value) in figures.as_object().into_iter().flatten() {
        let shown = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if key.contains("bytes") => output::bytes(number.as_u64().unwrap_or(0)),
            Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or(0.0)),
            Value::Null => "not measured".to_owned(),
            other => other.to_string(),
        };
        table.row([key.replace('_', " "), shown]);
    }
    table.print()
}
