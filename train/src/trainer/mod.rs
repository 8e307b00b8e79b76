//! The training itself: batches through the model, gradients over ranks, optimizer steps, and what happens in between.
//!
//! Everything random is a function of the seed and the step, so a run that is resumed goes on as one never stopped.

mod changes;
mod export;
mod initial;
mod plan;
mod ranks;
mod sample;
mod state;
mod text;
pub mod tuning;

pub use export::{check_free, export, export_checkpoint};
pub use plan::Plan;
pub use text::Text;

use crate::checkpoint::{self, Store};
use crate::data::ids::{self, Reading};
use crate::data::{Dataset, Loader, LoaderSettings};
use crate::distributed::World;
use crate::model::{Batch, Config, Losses, Model, Pass};
use crate::monitor::{Event, Monitor, Start, StepReport, Validation};
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::settings::{Precision, Run, Settings};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use ranks::{finite, load_of, sum_gradients, sum_losses};
use state::State;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Batches that the loader keeps ready.
const READY: usize = 4;

/// A training that is ready to go on.
pub struct Trainer {
    run: Run,
    world: World,
    model: Model,
    optimizer: AdamW,
    text: Text,
    train: Arc<Dataset>,
    validation: Option<Dataset>,
    store: Option<Store>, // of the first rank
    state: State,
    changes: Vec<String>, // since the checkpoint
    tick: Tick,
}

/// What the reports need to know of the time between them.
struct Tick {
    since: Instant,
    tokens: u64,
}

/// What a step computed, over all ranks and micro-batches.
struct Step {
    losses: Losses,
    gradient_norm: f64,
    learning_rate: f64,
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Finished steps.
    pub step: u64,
    /// Whether all steps are done.
    pub finished: bool,
    /// The last loss.
    pub loss: f64,
    /// The last validation loss.
    pub validation: Option<f64>,
}

/// The device of the settings.
///
/// # Errors
/// There is no such device, or this build cannot use it.
pub fn device_of(settings: &Settings, local_rank: usize) -> Result<Device> {
    device_named(&settings.device, local_rank)
}

/// The device of this name: auto, cpu, cuda or cuda:N.
///
/// # Errors
/// There is no such device, or this build cannot use it.
pub fn device_named(name: &str, local_rank: usize) -> Result<Device> {
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" if !candle_core::utils::cuda_is_available() => return Ok(Device::Cpu),
        "auto" | "cuda" => local_rank,
        other => {
            let number = other.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            number
                .ok_or_else(|| Error::request(format!("device {other:?}: say auto, cpu, cuda or cuda:N")))?
        }
    };
    if !candle_core::utils::cuda_is_available() {
        let hint = "build with `cargo build --release -p moewe-train --features cuda`, or say --device cpu";
        return Err(Error::request(format!("this build cannot use a GPU; {hint}")));
    }
    Ok(Device::new_cuda(number)?)
}

/// The type of the computation.
pub fn precision_of(settings: &Settings, device: &Device) -> DType {
    precision_for(settings.precision, device)
}

fn precision_for(precision: Precision, device: &Device) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::Auto => {
            if device.is_cuda() {
                DType::BF16
            } else {
                DType::F32
            }
        }
    }
}

impl Trainer {
    /// Opens data and model, and goes on from the newest good checkpoint in the run's folder where there is one.
    ///
    /// # Errors
    /// Whatever of these is missing or does not fit, by name.
    pub fn open(run: Run, world: World, device: &Device) -> Result<Self> {
        let plan = Plan::new(&run)?;
        plan.check_memory(device)?;
        let Plan { config, text, train, validation, .. } = plan;
        std::fs::create_dir_all(&run.out).map_err(|e| Error::io(&run.out, "create", e))?;
        let store = world.is_first().then(|| Store::open(&run.out, run.settings.keep_last)).transpose()?;
        world.barrier()?; // the first rank has tidied the folder
        let found = store.as_ref().map_or_else(|| checkpoint::latest(&run.out), Store::latest)?;
        let dtype = precision_of(&run.settings, device);
        let begin = || initial::model(&run, config.clone(), dtype, device);
        let mut changes = vec![];
        let (model, optimizer, state) = match &found {
            Some(found) => {
                found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                changes = changes::since(&found.path, &run)?;
                state::restore(&found.path, &run, &config, dtype, device)?
            }
            None => {
                let model = begin()?;
                let optimizer = AdamW::new(run.settings.optimizer(), &model)?;
                (model, optimizer, State::default())
            }
        };
        let tick = Tick { since: Instant::now(), tokens: state.tokens };
        let train = Arc::new(train);
        Ok(Self { run, world, model, optimizer, text, train, validation, store, state, changes, tick })
    }

    /// The model as it is now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Finished steps.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// What this start says otherwise than the one that made the checkpoint, a line each.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Reads all ids of the data that no start of this run has read before, so that a wrong one is found now.
    ///
    /// # Errors
    /// An id that the vocabulary lacks, with its place; `stop` was raised.
    pub fn check_data(&self, stop: &AtomicBool, report: &mut dyn FnMut(&Reading)) -> Result<()> {
        if self.world.is_first() {
            let datasets: Vec<&Dataset> = std::iter::once(&*self.train).chain(&self.validation).collect();
            ids::check(&datasets, &self.run.out.join("ids.json"), stop, report)?;
        }
        self.world.barrier()
    }

    /// Trains until all steps are done or `stop` is set, and saves what there is.
    ///
    /// # Errors
    /// A loss that is no number, data that is broken, a disk that is full: with what to do.
    pub fn train(&mut self, monitor: &mut Monitor, stop: &AtomicBool) -> Result<Outcome> {
        let mut loader = Loader::start(self.train.clone(), self.loader_settings())?;
        self.announce(monitor);
        let (mut loss, mut validation, mut saved) = (f64::NAN, None, self.state.step);
        while self.state.step < self.run.settings.max_steps && !self.should_stop(stop)? {
            let step = self.optimizer_step(&mut loader)?;
            loss = step.losses.loss;
            self.report(monitor, &step);
            validation = self.validate(monitor)?.or(validation);
            self.sample(monitor)?;
            let is_best = self.state.best_step == Some(self.state.step);
            if is_best || self.state.step.is_multiple_of(self.run.settings.save_every) {
                self.save(monitor)?;
                saved = self.state.step;
            }
        }
        if saved != self.state.step {
            self.save(monitor)?;
        }
        monitor.record(&Event::End { step: self.state.step });
        let finished = self.state.step >= self.run.settings.max_steps;
        Ok(Outcome { step: self.state.step, finished, loss, validation })
    }

    /// What was just done is not training: the next report's tokens per second begin here.
    fn restart_clock(&mut self) {
        self.tick = Tick { since: Instant::now(), tokens: self.state.tokens };
    }

    fn loader_settings(&self) -> LoaderSettings {
        LoaderSettings {
            seed: self.run.settings.seed,
            first: self.state.position,
            rows: self.run.settings.batch,
            rank: self.world.rank as u64,
            ranks: self.world.size as u64,
            depth: READY,
        }
    }

    fn announce(&self, monitor: &mut Monitor) {
        let (total, active) = self.model.config.counts();
        let mut description = format!(
            "{}: {total} parameters, {active} active; {} tokens in {} rows",
            self.run.preset,
            self.train.tokens(),
            self.train.rows()
        );
        if let Some(cut) = self.train.cut() {
            description += &format!(" ({cut})");
        }
        let (step, steps) = (self.state.step, self.run.settings.max_steps);
        monitor.record(&Event::Start(Start { step, steps, description }));
    }

    /// Whether any rank was asked to stop: all must leave after the same step.
    fn should_stop(&self, stop: &AtomicBool) -> Result<bool> {
        let mut asked = [f64::from(u8::from(stop.load(Ordering::Relaxed)))];
        self.world.sum_f64(&mut asked)?;
        Ok(asked[0] > 0.0)
    }

    fn optimizer_step(&mut self, loader: &mut Loader) -> Result<Step> {
        let settings = &self.run.settings;
        self.model.clear_gradients()?;
        let micro_batches = (settings.accumulate * self.world.size) as f64;
        let average = |values: &mut [f64]| {
            self.world.sum_f64(values)?;
            values.iter_mut().for_each(|value| *value /= self.world.size as f64);
            Ok(())
        };
        let mut losses = Losses::default();
        for micro in 0..settings.accumulate {
            let batch = loader.next()?;
            let place = [self.state.step, micro as u64, self.world.rank as u64];
            let pass = Pass {
                scale: 1.0 / micro_batches,
                token_scale: None,
                adapter_seed: None,
                seed: Some(Random::at(settings.seed, &place).bits()),
                segment: settings.segment,
                average: (self.world.size > 1).then_some(&average),
            };
            let batch = Batch { tokens: &batch.tokens, rows: batch.rows, packing: None };
            losses.add(
                &self.model.forward_backward(batch, &pass).map_err(|e| self.explain(e))?,
                1.0 / micro_batches,
            );
        }
        sum_losses(&self.world, &mut losses)?;
        sum_gradients(&self.world, &self.model)?;
        if !losses.loss.is_finite() {
            return Err(self.diverged());
        }
        let learning_rate = settings.rates().rate(self.state.step);
        let gradient_norm = self.optimizer.step(&mut self.model, learning_rate)?;
        if !gradient_norm.is_finite() {
            return Err(self.diverged());
        }
        self.state.step += 1;
        self.state.position = loader.position();
        self.state.tokens += (self.run.settings.batch * self.train.context()) as u64
            * (self.run.settings.accumulate * self.world.size) as u64;
        Ok(Step { losses, gradient_norm, learning_rate })
    }

    fn report(&mut self, monitor: &mut Monitor, step: &Step) {
        let settings = &self.run.settings;
        if !self.state.step.is_multiple_of(settings.log_every) && self.state.step < settings.max_steps {
            return;
        }
        let experts = self.model.config.experts;
        let seconds = self.tick.since.elapsed().as_secs_f64();
        let tokens = self.state.tokens - self.tick.tokens;
        self.restart_clock();
        monitor.record(&Event::Step(StepReport {
            step: self.state.step,
            tokens_seen: self.state.tokens,
            loss: step.losses.loss,
            cross_entropy: step.losses.cross_entropy,
            load_balance: step.losses.load_balance * experts.load_balance,
            router_z: step.losses.router_z * experts.router_z,
            learning_rate: step.learning_rate,
            gradient_norm: step.gradient_norm,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            memory_bytes: moewe_engine::os::memory::peak_resident(),
            experts: step.losses.experts.iter().map(load_of).collect(),
        }));
    }

    /// The validation loss where this step is due for one.
    fn validate(&mut self, monitor: &mut Monitor) -> Result<Option<f64>> {
        let settings = &self.run.settings;
        let is_due = settings.eval_every > 0
            && (self.state.step.is_multiple_of(settings.eval_every) || self.state.step == settings.max_steps);
        let Some(dataset) = self.validation.as_ref().filter(|_| is_due) else { return Ok(None) };
        let measured = self.measure(dataset, settings.eval_rows)?;
        self.restart_clock();
        self.state.note(measured.loss);
        monitor.record(&Event::Validation(measured.clone()));
        Ok(Some(measured.loss))
    }

    /// Loss of the first `rows` rows of `dataset`, without dropout and noise.
    ///
    /// # Errors
    /// Data that is broken.
    pub fn measure(&self, dataset: &Dataset, rows: u64) -> Result<Validation> {
        let context = dataset.context();
        let (mut nats, mut tokens, mut bytes) = (0.0, 0, Some(0));
        let rows = rows.min(dataset.rows());
        for first in (0..rows).step_by(self.run.settings.batch) {
            let count = (rows - first).min(self.run.settings.batch as u64) as usize;
            let mut ids = vec![0; count * context];
            for (row, out) in ids.chunks_exact_mut(context).enumerate() {
                dataset.sequential(first + row as u64, out)?;
            }
            let losses = self
                .model
                .evaluate(Batch { tokens: &ids, rows: count, packing: None }, &Pass::evaluation())?;
            nats += losses.cross_entropy * losses.targets as f64;
            tokens += losses.targets as u64;
            let length = |row: &[u32]| self.text.bytes_of(&row[1..]);
            bytes = ids.chunks_exact(context).map(length).fold(bytes, |a, b| Some(a? + b?));
        }
        let loss = nats / tokens.max(1) as f64;
        let bits_per_byte =
            bytes.filter(|&bytes| bytes > 0).map(|bytes| nats / std::f64::consts::LN_2 / bytes as f64);
        Ok(Validation { step: self.state.step, loss, perplexity: loss.exp(), bits_per_byte, tokens })
    }

    fn sample(&mut self, monitor: &mut Monitor) -> Result<()> {
        let settings = &self.run.settings;
        let is_due = settings.sample_every > 0 && self.state.step.is_multiple_of(settings.sample_every);
        if is_due && self.world.is_first() {
            for (prompt, text) in sample::texts(&self.model, &self.text, &self.run, self.state.step)? {
                monitor.record(&Event::Sample { step: self.state.step, prompt, text });
            }
        }
        if is_due {
            self.restart_clock();
        }
        Ok(())
    }

    fn save(&mut self, monitor: &mut Monitor) -> Result<()> {
        if let Some(store) = &self.store {
            let step = self.state.step;
            let parts = state::Parts { model: &self.model, optimizer: &self.optimizer, state: &self.state };
            let path = store.save(step, |folder| parts.write(folder, &self.run, self.text.path()))?;
            if self.state.best_step == Some(step) {
                store.mark_best(step)?;
            }
            store.prune()?;
            monitor.record(&Event::Checkpoint { step, path });
        }
        self.restart_clock();
        self.world.barrier()
    }

    /// Adds what to do to an error of the device.
    fn explain(&self, error: Error) -> Error {
        let text = error.to_string();
        if !text.to_lowercase().contains("out of memory") && !text.contains("OUT_OF_MEMORY") {
            return error;
        }
        let Settings { batch, segment, .. } = self.run.settings;
        let hint = if segment == 0 { "--segment 1 (activations are computed again), " } else { "" };
        Error::request(format!(
            "the device is out of memory with preset {} and --batch {batch}: try {hint}a smaller --batch with a larger \
             --accumulate, or a smaller preset; `--dry-run` prints what fits ({text})",
            self.run.preset
        ))
    }

    /// Says which tensor is no longer a number, and where to go on from.
    fn diverged(&self) -> Error {
        let bad = |tensor: &Tensor| !finite(tensor);
        let parameters = &self.model.parameters;
        let named = |kind: &str, found: Option<&crate::model::Parameter>| {
            found.map(|parameter| format!("{kind} {}", parameter.spec.pieces[0].name))
        };
        let what = named("the weight", parameters.iter().find(|p| bad(&p.master)))
            .or_else(|| {
                named(
                    "the gradient of",
                    parameters.iter().rev().find(|p| p.gradient.total().is_some_and(|t| bad(&t))),
                )
            })
            .unwrap_or_else(|| "the loss".into());
        let place = match checkpoint::latest(&self.run.out) {
            Ok(Some(found)) => format!("the last good checkpoint is {}", found.path.display()),
            _ => "there is no checkpoint yet".into(),
        };
        let advice = format!("{place}; go on from it with a smaller --learning-rate, or another --seed");
        Error::Diverged { step: self.state.step, what, advice }
    }
}

/// Writes the effective settings beside the checkpoints.
///
/// # Errors
/// The disk refuses.
pub fn write_settings(run: &Run) -> Result<()> {
    let path = run.out.join("run.toml");
    let text = toml::to_string(run).map_err(|e| Error::request(e.to_string()))?;
    std::fs::create_dir_all(&run.out).map_err(|e| Error::io(&run.out, "create", e))?;
    std::fs::write(&path, text).map_err(|e| Error::io(&path, "write", e))
}

/// The config of `run` for its data, as far as that says how long vocabulary and context are.
fn config_of(run: &Run, vocabulary: Option<usize>, context: Option<usize>) -> Result<Config> {
    let mut config =
        Config::named_for(&run.preset, vocabulary, context).map_err(|e| initial::no_preset(run, e))?;
    if run.settings.dropless {
        config.experts.capacity = None;
    }
    Ok(config)
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}
