//! `moewe experts`: which experts a text uses, recorded routing, and what other ways of keeping experts would have hit.

use super::options::{ModelOptions, byte_rate, duration};
use super::output::{self, Table};
use super::{Command, heat, target, text::read};
use anyhow::{Result, bail};
use clap::Parser;
use moewe_engine::eval::trace_routing;
use moewe_engine::experts::{Pace, Policy, Replayed, Trace, replay};
use moewe_engine::os::interrupt;
use serde_json::{Value, json};
use std::io::stdout;
use std::path::{Path, PathBuf};

/// Shares of all experts that the replay lets fit, in percent.
const SHARES: [usize; 8] = [6, 12, 25, 37, 50, 62, 75, 87];

/// Show which experts a text uses, record its routing, or replay a recording.
#[derive(Parser)]
#[command(name = "experts")]
pub(super) struct Look {
    #[command(flatten)]
    model: ModelOptions,
    /// The text file; `-` reads stdin
    #[arg(long, short = 'f', value_name = "FILE", required_unless_present = "replay")]
    text: Option<PathBuf>,
    /// Write which experts every token chose to a file
    #[arg(long, value_name = "FILE", requires = "text")]
    trace: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "trace")]
    force: bool,
    /// Print what several ways of keeping experts hit on a recording, by the share of experts that fit
    #[arg(long, value_name = "TRACE", conflicts_with_all = ["text", "model"])]
    replay: Option<PathBuf>,
    /// With --replay: bytes per second of a disk, such as 3G; prints tokens per second instead of hits
    #[arg(long, value_name = "RATE", requires_all = ["replay", "compute"], value_parser = byte_rate)]
    disk: Option<f64>,
    /// With --disk: what a token takes where all experts are in memory, such as 20ms
    #[arg(long, value_name = "TIME", requires = "disk", value_parser = duration)]
    compute: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Look {
    fn run(self) -> Result<()> {
        match (&self.replay, &self.text) {
            (Some(path), _) => self.replay(path),
            (None, Some(text)) => self.measure(text),
            (None, None) => bail!("give --text FILE or --replay TRACE"),
        }
    }
}

impl Look {
    fn measure(&self, text: &Path) -> Result<()> {
        target::check(self.trace.as_deref(), target::existing(self.force))?;
        let text = read(text)?;
        let engine = self.model.open()?;
        if let Some(path) = &self.trace {
            target::refuse_model(path, [engine.gguf()])?;
        }
        let listener = interrupt::listen();
        let trace = trace_routing(&engine, &text, engine.context_length(), |_, _| !listener.is_raised())?;
        drop(listener);
        if let Some(path) = &self.trace {
            trace.write(path, target::existing(self.force))?;
            output::note(format!(
                "routing of {} written to {}",
                output::counted(trace.tokens.len(), "token"),
                path.display()
            ));
        }
        let counted = engine.expert_statistics().unwrap_or_default();
        if self.json {
            return output::json(&heat::figures(&counted));
        }
        heat::map(&counted, output::has_colours(&stdout())).into_iter().try_for_each(output::print)?;
        output::note(heat::summary(&counted));
        Ok(())
    }

    fn replay(&self, path: &Path) -> Result<()> {
        let trace = Trace::read(path)?;
        let experts: usize = trace.layers.iter().map(|layer| layer.expert_count).sum();
        let given = self.disk.zip(self.compute).map(|(disk, compute)| Pace { disk, compute });
        let pace = given.unwrap_or(Pace { disk: f64::INFINITY, compute: 0.0 });
        let played = |policy| SHARES.map(|share| replay(&trace, policy, experts * share / 100, pace));
        if self.json {
            return output::json(&replay_figures(&trace, given, |policy| played(policy).to_vec()));
        }
        let (title, cell): (_, Box<dyn Fn(Replayed) -> String>) = match given {
            None => ("HITS IF THERE FIT", Box::new(|played| format!("{:.1} %", played.hit_rate * 100.0))),
            Some(_) => (
                "TOKENS/S IF THERE FIT",
                Box::new(|played| format!("{:.2}", tokens_per_second(&trace, &played))),
            ),
        };
        let percent = SHARES.map(|share| format!("{share} %"));
        let heading: Vec<&str> = [title].into_iter().chain(percent.iter().map(String::as_str)).collect();
        let mut table = Table::new(&heading, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for (policy, name) in Policy::ALL {
            table.row([name.to_owned()].into_iter().chain(played(policy).map(&cell)));
        }
        table.print()
    }
}

fn tokens_per_second(trace: &Trace, played: &Replayed) -> f64 {
    trace.tokens.len() as f64 / played.time.max(f64::MIN_POSITIVE)
}

/// A replay for programs: hits, and where a machine is given, times.
fn replay_figures(trace: &Trace, pace: Option<Pace>, played: impl Fn(Policy) -> Vec<Replayed>) -> Value {
    let row = |(policy, name): (Policy, &str)| {
        let all = played(policy);
        let each = |figure: &dyn Fn(&Replayed) -> f64| all.iter().map(figure).collect::<Vec<_>>();
        let mut row = json!({ "policy": name, "hit_rates": each(&|played| played.hit_rate) });
        if pace.is_some() {
            let tokens = trace.tokens.len().max(1) as f64;
            row["tokens_per_second"] = each(&|played| tokens_per_second(trace, played)).into();
            row["stall_ms_per_token"] = each(&|played| played.stall * 1e3 / tokens).into();
            row["disk_busy_ms_per_token"] = each(&|played| played.disk_busy * 1e3 / tokens).into();
            row["bytes_read_per_token"] = each(&|played| played.bytes as f64 / tokens).into();
        }
        row
    };
    let mut figures = json!({
        "tokens": trace.tokens.len(),
        "experts": trace.layers.iter().map(|layer| layer.expert_count).sum::<usize>(),
        "shares": SHARES.map(|share| share as f64 / 100.0),
        "policies": Policy::ALL.map(row).to_vec(),
    });
    if let Some(Pace { disk, compute }) = pace {
        figures["disk_bytes_per_second"] = disk.into();
        figures["compute_ms_per_token"] = (compute * 1e3).into();
    }
    figures
}
