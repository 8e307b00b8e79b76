//! Fine-tuning: a model that others made learns from rows of conversations. All of it is trained, its routers, or
//! adapters beside it; what is not trained stays as it is stored.
//!
//! The loss of a step is the sum over its trained tokens divided by their number, over all micro-batches and ranks: a
//! mean of means would count tokens of short answers more.

mod base;
mod checkpoint;
mod export;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::Tuning;

use super::ranks::{finite, load_of, sum_gradients, sum_losses};
use super::state::State;
use super::{Outcome, precision_for};
use crate::checkpoint::{Store, latest};
use crate::data::chat::{ChatRows, Row};
use crate::distributed::World;
use crate::model::{ExpertLoad, Losses, Model, PackedRow, Packing, Pass};
use crate::monitor::{Event, Monitor, Start, StepReport, Validation};
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::{Error, Result};
use base::Identity;
use candle_core::Device;
use checkpoint::Record;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Rows to learn from.
pub trait Examples: Send + Sync {
    /// How many rows there are.
    fn rows(&self) -> u64;

    /// The row at `index` of an endless stream, which has every row once in each epoch: a function of seed and index.
    fn row(&self, seed: u64, index: u64) -> PackedRow<'_>;

    /// Rows that are held out.
    fn held_out(&self) -> Vec<PackedRow<'_>>;

    /// A digest of all rows.
    fn digest(&self) -> String;
}

impl Examples for ChatRows {
    fn rows(&self) -> u64 {
        self.train.len() as u64
    }

    fn row(&self, seed: u64, index: u64) -> PackedRow<'_> {
        packed(self.row(seed, index))
    }

    fn held_out(&self) -> Vec<PackedRow<'_>> {
        self.validation.iter().map(packed).collect()
    }

    fn digest(&self) -> String {
        self.digest()
    }
}

fn packed(row: &Row) -> PackedRow<'_> {
    PackedRow { tokens: &row.tokens, trained: &row.trained, segments: &row.segments }
}

/// A fine-tuning that is ready to go on.
pub struct Tuner<'a> {
    tuning: Tuning,
    examples: &'a dyn Examples,
    world: World,
    model: Model,
    optimizer: AdamW,
    store: Option<Store>, // of the first rank
    record: Record,
    changes: Vec<String>, // since the checkpoint
    since: (Instant, u64),
}

/// What a step computed, over all ranks and micro-batches.
struct Step {
    losses: Losses,
    gradient_norm: f64,
    learning_rate: f64,
}

impl<'a> Tuner<'a> {
    /// Loads the model, and goes on from the newest good checkpoint in the folder of the result where there is one.
    ///
    /// # Errors
    /// A model that cannot be trained so, a result that stands there already, or a checkpoint of another training.
    pub fn open(tuning: Tuning, examples: &'a dyn Examples, world: World, device: &Device) -> Result<Self> {
        let config = tuning.config()?;
        let out = &tuning.out;
        if let (Ok(base), Ok(own)) = (tuning.base.canonicalize(), out.canonicalize())
            && base == own
        {
            let message =
                format!("-o {}: that would change the model itself; name another folder", out.display());
            return Err(Error::request(message));
        }
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create", e))?;
        let store = world.is_first().then(|| Store::open(out, tuning.keep_last)).transpose()?;
        world.barrier()?; // the first rank has tidied the folder
        let found = store.as_ref().map_or_else(|| latest(out), Store::latest)?;
        let state = State { seed: tuning.seed, ..State::default() };
        let (base, data) = (Identity::of(&tuning.base)?, examples.digest());
        let mut record = Record { state, base, data, tuning: tuning.clone() };
        let mut changes = vec![];
        if let Some(found) = &found {
            found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let saved = checkpoint::record(&found.path)?;
            changes = saved.compare(&record, &found.path)?;
            record.state = saved.state;
        }
        let mut model = base::load(&tuning, config, precision_for(tuning.precision, device), device)?;
        let optimizer = match &found {
            Some(found) => checkpoint::restore(&found.path, &mut model, &tuning, record.state.step)?,
            None => AdamW::new(tuning.optimizer(), &model)?,
        };
        let since = (Instant::now(), record.state.tokens);
        Ok(Self { tuning, examples, world, model, optimizer, store, record, changes, since })
    }

    /// Refuses to begin where a result stands that no checkpoint explains.
    ///
    /// # Errors
    /// There is one.
    pub fn check_free(tuning: &Tuning) -> Result<()> {
        let result = tuning.out.join(export::result_name(tuning));
        if result.exists() && latest(&tuning.out)?.is_none() {
            return Err(Error::exists(result));
        }
        Ok(())
    }

    /// The model as it is now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Finished steps.
    pub fn step(&self) -> u64 {
        self.record.state.step
    }

    /// Steps of the whole training.
    pub fn steps(&self) -> u64 {
        self.tuning.steps(self.examples.rows())
    }

    /// What this start says otherwise than the one that made the checkpoint, a line each.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Trains until all steps are done or `stop` is set, and saves what there is.
    ///
    /// # Errors
    /// A loss that is no number, a disk that is full: with what to do.
    pub fn train(&mut self, monitor: &mut Monitor, stop: &AtomicBool) -> Result<Outcome> {
        let steps = self.steps();
        let description =
            format!("{}\n{}", self.record.base.name, self.tuning.describe(&self.model.config).trim_end());
        monitor.record(&Event::Start(Start { step: self.step(), steps, description }));
        let (mut loss, mut validation, mut saved) = (f64::NAN, None, self.step());
        while self.step() < steps && !self.should_stop(stop)? {
            let step = self.optimizer_step(steps)?;
            loss = step.losses.loss;
            self.report(monitor, &step, steps);
            let is_due =
                |every: u64| (every > 0 && self.step().is_multiple_of(every)) || self.step() == steps;
            let (validates, saves) = (is_due(self.tuning.eval_every), is_due(self.tuning.save_every));
            if validates {
                validation = self.validate(monitor)?.or(validation);
            }
            if saves {
                self.save(monitor)?;
                saved = self.step();
            }
        }
        if saved != self.step() {
            self.save(monitor)?;
        }
        monitor.record(&Event::End { step: self.step() });
        Ok(Outcome { step: self.step(), finished: self.step() >= steps, loss, validation })
    }

    /// Writes the result to the folder of this training; `companions` are files beside it, with their contents.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn export(&self, companions: &[(String, String)]) -> Result<()> {
        export::write(&self.tuning.out, &self.model, &self.tuning, companions)
    }

    /// Whether any rank was asked to stop: all must leave after the same step.
    fn should_stop(&self, stop: &AtomicBool) -> Result<bool> {
        let mut asked = [f64::from(u8::from(stop.load(Ordering::Relaxed)))];
        self.world.sum_f64(&mut asked)?;
        Ok(asked[0] > 0.0)
    }

    /// The rows of the next step, of all ranks; the last step has what is left.
    fn rows(&self) -> Vec<PackedRow<'a>> {
        let first = self.record.state.position;
        let end = (first + self.tuning.batch as u64).min(self.examples.rows() * self.tuning.epochs);
        (first..end).map(|index| self.examples.row(self.tuning.seed, index)).collect()
    }

    fn optimizer_step(&mut self, steps: u64) -> Result<Step> {
        self.model.clear_gradients()?;
        let (rows, state) = (self.rows(), &self.record.state);
        let whole = Packing::new(&rows)?;
        let (targets, tokens) = (whole.targets().max(1) as f64, whole.tokens().max(1));
        let own: Vec<PackedRow> =
            rows.iter().skip(self.world.rank).step_by(self.world.size).copied().collect();
        let mut losses = Losses { experts: self.no_load(), ..Losses::default() };
        for (micro, rows) in own.chunks(self.tuning.micro_batch).enumerate() {
            let packing = Packing::new(rows)?;
            let share = packing.tokens() as f64 / tokens as f64;
            let place = [state.step, micro as u64, self.world.rank as u64];
            let pass = Pass {
                scale: share,
                token_scale: Some(1.0 / targets),
                adapter_seed: Some(Random::at(self.tuning.seed, &place).bits()),
                segment: self.tuning.segment,
                ..Pass::evaluation()
            };
            let found = self.model.forward_backward(packing.batch(), &pass)?;
            losses.add_weighted(&found, (found.targets as f64 / targets, share));
        }
        sum_losses(&self.world, &mut losses)?;
        sum_gradients(&self.world, &self.model)?;
        let learning_rate = self.tuning.rates(steps).rate(state.step);
        let gradient_norm = match losses.loss.is_finite() {
            true => self.optimizer.step(&mut self.model, learning_rate)?,
            false => f64::NAN,
        };
        if !gradient_norm.is_finite() {
            return Err(self.diverged());
        }
        let state = &mut self.record.state;
        state.step += 1;
        state.position += rows.len() as u64;
        state.tokens += tokens as u64;
        Ok(Step { losses, gradient_norm, learning_rate })
    }

    /// The load of no tokens: a rank may have no row of the last step.
    fn no_load(&self) -> Vec<ExpertLoad> {
        let config = &self.model.config;
        let layers = (0..config.block_count).filter(|&layer| config.has_experts(layer));
        let counts = vec![0; config.experts.count];
        layers.map(|layer| ExpertLoad { layer, counts: counts.clone(), ..ExpertLoad::default() }).collect()
    }

    fn report(&mut self, monitor: &mut Monitor, step: &Step, steps: u64) {
        let state = &self.record.state;
        if !state.step.is_multiple_of(self.tuning.log_every) && state.step < steps {
            return;
        }
        let experts = self.model.config.experts;
        let (since, tokens) = self.since;
        monitor.record(&Event::Step(StepReport {
            step: state.step,
            tokens_seen: state.tokens,
            loss: step.losses.loss,
            cross_entropy: step.losses.cross_entropy,
            load_balance: step.losses.load_balance * experts.load_balance,
            router_z: step.losses.router_z * experts.router_z,
            learning_rate: step.learning_rate,
            gradient_norm: step.gradient_norm,
            tokens_per_second: (state.tokens - tokens) as f64 / since.elapsed().as_secs_f64().max(1e-9),
            memory_bytes: moewe_engine::os::memory::peak_resident(),
            experts: step.losses.experts.iter().map(load_of).collect(),
        }));
        self.since = (Instant::now(), state.tokens);
    }

    /// The loss per trained token of the rows that are held out, where there are some.
    ///
    /// # Errors
    /// The device fails.
    pub fn measure(&self) -> Result<Option<Validation>> {
        let rows = self.examples.held_out();
        let (mut nats, mut tokens) = (0.0, 0);
        for rows in rows.chunks(self.tuning.micro_batch) {
            let losses = self.model.evaluate(Packing::new(rows)?.batch(), &Pass::evaluation())?;
            nats += losses.cross_entropy * losses.targets as f64;
            tokens += losses.targets as u64;
        }
        let loss = nats / tokens.max(1) as f64;
        let found =
            Validation { step: self.step(), loss, perplexity: loss.exp(), bits_per_byte: None, tokens };
        Ok((tokens > 0).then_some(found))
    }

    fn validate(&mut self, monitor: &mut Monitor) -> Result<Option<f64>> {
        let Some(measured) = self.measure()? else { return Ok(None) };
        self.since = (Instant::now(), self.record.state.tokens);
        self.record.state.note(measured.loss);
        monitor.record(&Event::Validation(measured.clone()));
        Ok(Some(measured.loss))
    }

    fn save(&mut self, monitor: &mut Monitor) -> Result<()> {
        if let Some(store) = &self.store {
            let step = self.step();
            let record = &self.record;
            let path =
                store.save(step, |folder| checkpoint::write(folder, &self.model, &self.optimizer, record))?;
            store.prune()?;
            monitor.record(&Event::Checkpoint { step, path });
        }
        self.since = (Instant::now(), self.record.state.tokens);
        self.world.barrier()
    }

    /// Says which tensor is no longer a number, and where to go on from.
    fn diverged(&self) -> Error {
        let bad = |parameter: &&crate::model::Parameter| {
            !finite(&parameter.master) || parameter.gradient.total().is_some_and(|total| !finite(&total))
        };
        let found = self.model.trained().find(bad).map(|parameter| parameter.spec.pieces[0].name.clone());
        let what = found.unwrap_or_else(|| "the loss".into());
        let place = match latest(&self.tuning.out) {
            Ok(Some(found)) => format!("the last good checkpoint is {}", found.path.display()),
            _ => "there is no checkpoint yet".into(),
        };
        let advice = format!("{place}; go on from it with a smaller --learning-rate");
        Error::Diverged { step: self.step(), what, advice }
    }
}
