//! What a person chooses for a fine-tuning, and what is counted of it before it begins.

use super::super::plan::saved;
use crate::checkpoint::Weights;
use crate::model::{Config, Lora, Target, Trained};
use crate::optimizer::{AdamWSettings, Schedule, ScheduleKind};
use crate::settings::Precision;
use crate::{Error, Result};
use candle_core::Device;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Share of the steps in which the rate rises.
const WARMUP: f64 = 0.03;

/// The settings of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tuning {
    /// Folder of the model that it begins from.
    pub base: PathBuf,
    /// Folder of checkpoints and of the result.
    pub out: PathBuf,
    /// What is trained.
    pub trained: Trained,
    /// Most tokens of a row.
    pub context: usize,
    /// Rows of the vocabulary; 0 for those of the model.
    pub vocabulary: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Course of the rate after the warm-up.
    pub schedule: ScheduleKind,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradients; 0 does not clip.
    pub clip: f64,
    /// How often each row is seen.
    pub epochs: u64,
    /// Steps after which it ends, if that is earlier; 0 for no limit.
    pub max_steps: u64,
    /// Rows of a step, over all ranks.
    pub batch: usize,
    /// Rows that are computed at a time.
    pub micro_batch: usize,
    /// Factor of the load-balance loss; without, the model's own where routers are trained, else 0.
    pub aux: Option<f64>,
    /// Seed of adapters, their dropout and the order of rows.
    pub seed: u64,
    /// Layers of a segment whose activations are computed again; 0 keeps all.
    pub segment: usize,
    /// Precision of the computation.
    pub precision: Precision,
    /// auto, cpu, cuda or cuda:N.
    pub device: String,
    /// Steps between validations; 0 for one at the end.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 for one at the end.
    pub save_every: u64,
    /// Checkpoints that are kept.
    pub keep_last: usize,
    /// Steps between reports.
    pub log_every: u64,
}

impl Tuning {
    /// The defaults for training `trained` of the model in `base`.
    pub fn new(base: PathBuf, out: PathBuf, trained: Trained) -> Self {
        let learning_rate = match &trained {
            Trained::All => 2e-5,
            Trained::Router => 1e-3,
            Trained::Lora(_) => 1e-4,
        };
        Self {
            base,
            out,
            trained,
            context: 2048,
            vocabulary: 0,
            learning_rate,
            schedule: ScheduleKind::Cosine,
            weight_decay: 0.0,
            clip: 1.0,
            epochs: 1,
            max_steps: 0,
            batch: 16,
            micro_batch: 4,
            aux: None,
            seed: 42,
            segment: 0,
            precision: Precision::Auto,
            device: "auto".into(),
            eval_every: 0,
            save_every: 0,
            keep_last: 2,
            log_every: 1,
        }
    }

    /// Refuses values that no training can have.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<()> {
        let rules = [
            (self.epochs > 0, "epochs must be at least 1"),
            (self.batch > 0 && self.micro_batch > 0, "batch and micro-batch must be at least 1"),
            (self.context > 1, "context must be at least 2: the first token of a text is never predicted"),
            (self.keep_last > 0, "keep-last must be at least 1"),
            (self.log_every > 0, "log-every must be at least 1"),
            (self.learning_rate > 0.0 && self.learning_rate < 1e3, "learning-rate must lie above 0"),
            (self.weight_decay >= 0.0 && self.weight_decay < 1e3, "weight-decay must not be negative"),
            (self.clip >= 0.0 && self.clip.is_finite(), "clip must not be negative"),
            (self.aux.is_none_or(|aux| aux >= 0.0 && aux.is_finite()), "aux must not be negative"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::request(*rule)),
            None => Ok(()),
        }
    }

    /// The model as it is computed here: as inference does, without capacity, noise or dropout.
    ///
    /// # Errors
    /// A config.json of a model that cannot be trained, or adapters that it cannot have.
    pub fn config(&self) -> Result<Config> {
        self.check()?;
        let folder = self.base.to_string_lossy();
        let vocabulary = (self.vocabulary > 0).then_some(self.vocabulary);
        let own = |context| Config::named_for(&folder, vocabulary, context);
        let mut config = own(Some(self.context))?;
        if config.position == crate::model::Position::Learned {
            config = own(None)?; // which has a row per position
        }
        if let Trained::Lora(lora) = &self.trained {
            lora.check(&config)?;
        }
        if self.trained == Trained::Router && config.expert_layers() == 0 {
            let model_type = config.architecture.model_type;
            return Err(Error::request(format!(
                "a {model_type} has no routers: say --train lora or --train all"
            )));
        }
        let trains_router = match &self.trained {
            Trained::All | Trained::Router => true,
            Trained::Lora(lora) => lora.targets.contains(&Target::Router),
        };
        let kept = |own: f64| if trains_router { own } else { 0.0 };
        config.experts.load_balance = self.aux.unwrap_or(kept(config.experts.load_balance));
        config.experts.router_z = kept(config.experts.router_z);
        config.experts.capacity = None;
        config.dropout = 0.0;
        Ok(config)
    }

    /// Steps over `rows` rows.
    pub fn steps(&self, rows: u64) -> u64 {
        let steps = (rows * self.epochs).div_ceil(self.batch as u64);
        if self.max_steps > 0 { steps.min(self.max_steps) } else { steps }
    }

    pub(super) fn rates(&self, steps: u64) -> Schedule {
        Schedule {
            kind: self.schedule,
            peak: self.learning_rate,
            smallest: 0.0,
            warmup_steps: (steps as f64 * WARMUP).ceil() as u64,
            max_steps: steps,
            decay_share: 0.2,
        }
    }

    pub(super) fn optimizer(&self) -> AdamWSettings {
        AdamWSettings {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: self.weight_decay,
            clip: self.clip,
        }
    }

    /// The settings of adapters.
    pub fn lora(&self) -> Option<&Lora> {
        match &self.trained {
            Trained::Lora(lora) => Some(lora),
            _ => None,
        }
    }

    /// Bytes that a training in numbers of `width` bytes takes, with so many layers whose activations are computed again.
    ///
    /// # Errors
    /// There are no weights.
    fn memory(&self, config: &Config, width: u64, segment: u64) -> Result<u64> {
        let trained: u64 = self.trained.counts(config).iter().map(|(_, count)| count).sum();
        let stored = if self.trained == Trained::All { 0 } else { Weights::open(&self.base)?.bytes() };
        let copies = if width == 4 { 0 } else { width };
        let fixed = stored + trained * (4 + 4 + 8 + copies); // masters, gradients, two moments, copies to compute with
        let tokens = (self.micro_batch.min(self.batch) * self.context) as u64;
        let layers = config.block_count as u64;
        let all: u64 = (0..config.block_count).map(|layer| saved(config, layer, width)).sum();
        let activations = match segment {
            0 => all,
            segment => {
                layers.div_ceil(segment) * 4 * config.embedding_length as u64
                    + all * segment.min(layers) / layers
            }
        };
        Ok(fixed + tokens * (activations + all / layers) + 3 * 4 * (1 << 21))
    }

    /// Refuses a training that cannot fit in the machine's memory, where that is what it computes in.
    ///
    /// # Errors
    /// It cannot, or there are no weights.
    pub fn check_memory(&self, config: &Config, device: &Device) -> Result<()> {
        let needed = self.memory(config, 4, self.segment as u64)?;
        let Some(free) =
            moewe_engine::os::memory::available().filter(|&free| device.is_cpu() && free < needed)
        else {
            return Ok(());
        };
        let smaller = Self { micro_batch: 1, ..self.clone() };
        let hint = match smaller.memory(config, 4, 1)? <= free {
            true => "--micro-batch 1 or --segment 1",
            false => "a shorter --context, or a smaller model",
        };
        let gb = |bytes: u64| bytes as f64 / 1e9;
        Err(Error::request(format!(
            "this takes about {:.1} GB, {:.1} GB are free: try {hint}",
            gb(needed),
            gb(free)
        )))
    }

    /// What is trained, kind by kind, for people: numbers, and their share of the model.
    pub fn describe(&self, config: &Config) -> String {
        let (total, _) = config.counts();
        let counts = self.trained.counts(config);
        let sum: u64 = counts.iter().map(|(_, count)| count).sum();
        let percent = |part: u64| 100.0 * part as f64 / total.max(1) as f64;
        let mut out = format!("{:12}{sum} of {total} parameters ({:.2} %)\n", "trained", percent(sum));
        for (name, count) in counts {
            out += &format!("{:12}{name}: {count}, {:.2} %\n", "", percent(count));
        }
        if let Ok(bytes) = self.memory(config, 4, self.segment as u64) {
            out += &format!("{:12}{:.2} GB in F32, beside the rows\n", "memory", bytes as f64 / 1e9);
        }
        out
    }
}
