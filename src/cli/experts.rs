//! `moewe experts`: which experts a text uses, recorded routing, and what other ways of keeping experts would have hit.

use super::options::ModelOptions;
use super::output::{self, Table};
use super::{Command, heat, target, text::read};
use anyhow::{Result, bail};
use clap::Parser;
use moewe_engine::eval::trace_routing;
use moewe_engine::experts::{Policy, Trace, hit_rate};
use moewe_engine::os::interrupt;
use serde_json::json;
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
        let rates = |policy| SHARES.map(|share| hit_rate(&trace, policy, experts * share / 100));
        if self.json {
            let rows = Policy::ALL
                .iter()
                .map(|&(policy, name)| json!({ "policy": name, "hit_rates": rates(policy) }));
            return output::json(&json!({
                "tokens": trace.tokens.len(),
                "experts": experts,
                "shares": SHARES.map(|share| share as f64 / 100.0),
                "policies": rows.collect::<Vec<_>>(),
            }));
        }
        let percent = SHARES.map(|share| format!("{share} %"));
        let heading: Vec<&str> =
            ["HITS IF THERE FIT"].into_iter().chain(percent.iter().map(String::as_str)).collect();
        let mut table = Table::new(&heading, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for (policy, name) in Policy::ALL {
            let cells = rates(policy).map(|rate| format!("{:.1} %", rate * 100.0));
            table.row([name.to_owned()].into_iter().chain(cells));
        }
        table.print()
    }
}
