//! `moewe train`: trains a model, or goes on with a run.

use super::watch::{clear, watch};
use super::{Command, say, spellings};
use crate::distributed::{Launch, World};
use crate::monitor::{self, Monitor, SINKS};
use crate::settings::{Overrides, Run, Settings, layer_of};
use crate::trainer::{Plan, Trainer, check_free, device_of, export, write_settings};
use crate::{Error, Result};
use candle_core::Device;
use clap::Parser;
use moewe_engine::os::interrupt;
use std::path::PathBuf;

/// Texts that samples go on from where none are named.
const PROMPTS: [&str; 3] = ["Es war einmal", "Im finsteren Wald", "Der alte Mann"];

/// Train a model, or go on with the run in --out
#[derive(Parser)]
#[command(name = "run")]
pub(super) struct Train {
    /// A named size, or the path of a config.json; see --presets [default: that of --init-from, else moewe-mini]
    #[arg(long)]
    preset: Option<String>,
    /// Folder of shards, with a weight if wanted; may be named more than once
    #[arg(long, value_name = "[NAME=]FOLDER[:WEIGHT]")]
    data: Vec<String>,
    /// Folder of shards for validation, instead of the held-out split
    #[arg(long, value_name = "FOLDER")]
    validation: Vec<String>,
    /// tokenizer.json, where it is not beside the shards
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where the run keeps checkpoints and logs [default: runs/PRESET]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Begin from a checkpoint of the same architecture, or from a dense one whose network becomes every expert
    #[arg(long, value_name = "FOLDER")]
    init_from: Option<PathBuf>,
    /// Settings in TOML, under the names of the flags; flags go before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Text that samples go on from; may be named more than once
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// What records the training [default: all]: terminal, jsonl, samples, tensorboard
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    monitor: Option<Vec<String>>,
    /// Refuse to go on with a run where a flag says otherwise than its checkpoint; else the difference is told
    #[arg(long)]
    strict: bool,
    /// Print model, data and memory, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the named sizes with their parameters, and stop
    #[arg(long)]
    presets: bool,
    /// Write the finished model in BF16 to this folder
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// Let --export replace a model that stands there
    #[arg(long, requires = "export")]
    force: bool,
    #[command(flatten)]
    overrides: Overrides,
}

impl Train {
    fn run_of(&self) -> Result<Run> {
        let mut layers = vec![];
        if let Some(path) = &self.config {
            let (name, layer) = layer_of(path)?;
            spellings::check(&name, &layer)?;
            layers.push((name, layer));
        }
        layers.push(self.overrides.layer()?);
        let start = self.init_from.as_ref().map(|folder| folder.display().to_string());
        let preset = self.preset.clone().or(start).unwrap_or_else(|| "moewe-mini".to_owned());
        let name = std::path::Path::new(&preset).file_stem().unwrap_or_default();
        let prompts =
            if self.prompts.is_empty() { PROMPTS.map(String::from).into() } else { self.prompts.clone() };
        Ok(Run {
            preset: preset.clone(),
            data: self.data.clone(),
            validation: self.validation.clone(),
            tokenizer: self.tokenizer.clone(),
            out: self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name)),
            init_from: self.init_from.clone(),
            prompts,
            settings: Settings::layered(&layers)?,
        })
    }

    fn train(&self, run: Run, world: World, device: &Device) -> Result<()> {
        let (is_first, out, log_every) = (world.is_first(), run.out.clone(), run.settings.log_every);
        let mut trainer = Trainer::open(run.clone(), world, device)?;
        self.tell_changes(&trainer, is_first)?;
        let mut monitor = Monitor::default();
        if is_first {
            write_settings(&run)?; // not before the run in the folder is known to be this one
            let all: Vec<String> = SINKS.iter().map(|sink| sink.name.to_owned()).collect();
            let settings = monitor::Settings { folder: out.clone(), step: trainer.step(), log_every };
            monitor = Monitor::open(&settings, self.monitor.as_ref().unwrap_or(&all))?;
        }
        let interrupt = interrupt::listen_to_all();
        trainer.check_data(&interrupt.flag(), &mut watch(false))?;
        if is_first {
            clear();
        }
        let outcome = trainer.train(&mut monitor, &interrupt.flag())?;
        if let Some(folder) = self.export.as_ref().filter(|_| is_first && outcome.finished) {
            export(&trainer, folder)?;
        }
        if !outcome.finished && is_first {
            let (step, out) = (outcome.step, out.display());
            say(&format!("stopped after step {step}; the same command goes on from {out}\n"))?;
        }
        Ok(())
    }
}

impl Train {
    /// Tells or refuses what is not as the checkpoint has it.
    fn tell_changes(&self, trainer: &Trainer, is_first: bool) -> Result<()> {
        let changes = trainer.changes();
        if self.strict && !changes.is_empty() {
            let message = format!("--strict: the run is at step {}; {}", trainer.step(), changes.join("; "));
            return Err(Error::request(message));
        }
        changes.iter().filter(|_| is_first).for_each(|change| tracing::warn!("{change}"));
        Ok(())
    }
}

impl Command for Train {
    fn run(self) -> Result<()> {
        if self.presets {
            return say(&presets()?);
        }
        let run = self.run_of()?;
        super::limit_threads(run.settings.threads)?;
        if self.dry_run {
            return say(&Plan::new(&run)?.describe());
        }
        if let Some(folder) = self.export.as_ref().filter(|_| !self.force) {
            check_free(folder)?; // not after days of training
        }
        let launch = Launch::from_environment()?;
        let device = device_of(&run.settings, launch.local_rank)?;
        let world = World::join(&launch, &device)?;
        let outcome = self.train(run, world.clone(), &device);
        if let Some(error) = outcome.as_ref().err().filter(|_| world.size > 1) {
            super::ending(error);
            world.abort(1); // the others would wait for this rank
        }
        outcome
    }
}

fn presets() -> Result<String> {
    let mut out = format!("{:20}{:>16}{:>16}\n", "preset", "parameters", "active");
    for preset in crate::model::PRESETS {
        let (total, active) = preset.config()?.counts();
        out += &format!("{:20}{total:>16}{active:>16}\n", preset.name);
    }
    Ok(out)
}
