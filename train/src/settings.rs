//! The settings of a training: built-in values, over them the preset's, a TOML file's, and what was typed.
//!
//! The effective settings are saved with the run. This file knows what the settings are, not what they do.

use crate::optimizer::{AdamWSettings, Schedule, ScheduleKind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The precision of the computation; masters, norms, the router and losses are always F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// BF16 on a GPU, F32 on the CPU.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of 32; on a CPU slower than F32.
    Bf16,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $([$($more:tt)*])? $field:ident : $type:ty = $default:expr;)*) => {
        /// All settings of a training.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        /// The settings that were typed.
        #[derive(Clone, Debug, Default, Serialize, clap::Args)]
        #[serde(rename_all = "kebab-case")]
        pub struct Overrides {
            $(
                $(#[doc = $doc])+
                #[arg(long $(, $($more)*)?)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }
    };
}

settings! {
    /// Rows of a micro-batch
    batch: usize = 8;
    /// Micro-batches whose gradients are added up before a step
    accumulate: usize = 1;
    /// Tokens of a row; 0 takes the rows' own length
    context: usize = 0;
    /// Steps of the whole training
    max_steps: u64 = 10_000;
    /// Largest learning rate
    learning_rate: f64 = 6e-4;
    /// Learning rate at the end
    min_learning_rate: f64 = 0.0;
    /// Steps that lead up to the largest learning rate
    warmup_steps: u64 = 200;
    /// Course of the learning rate after the warm-up
    schedule: ScheduleKind = ScheduleKind::Cosine;
    /// Share of the steps in which the schedule wsd decays
    decay_share: f64 = 0.2;
    /// Decoupled weight decay; norms and biases have none
    weight_decay: f64 = 0.1;
    /// Decay of AdamW's first moment
    beta1: f64 = 0.9;
    /// Decay of AdamW's second moment
    beta2: f64 = 0.95;
    /// Added to the root of AdamW's second moment
    epsilon: f64 = 1e-8;
    /// Largest global norm of the gradients; 0 does not clip
    clip: f64 = 1.0;
    /// Precision of the computation
    precision: Precision = Precision::Auto;
    /// auto, cpu, cuda or cuda:N
    device: String = "auto".into();
    /// Threads on the CPU; 0 takes all cores
    threads: usize = 0;
    /// Seed of weights, order of the data, noise and dropout
    seed: u64 = 42;
    /// Compute activations again in the backward, in segments of so many layers; 0 keeps them all
    segment: usize = 0;
    /// Never drop a token for want of capacity
    [num_args = 0..=1, default_missing_value = "true"]
    dropless: bool = false;
    /// Steps between validations; 0 for none
    eval_every: u64 = 500;
    /// Rows of a validation
    eval_rows: u64 = 64;
    /// Steps between checkpoints
    save_every: u64 = 500;
    /// Checkpoints that are kept
    keep_last: usize = 3;
    /// Steps between samples; 0 for none
    sample_every: u64 = 1000;
    /// Tokens of a sample
    sample_tokens: usize = 120;
    /// Temperature of samples
    sample_temperature: f32 = 0.8;
    /// Steps between reports
    log_every: u64 = 10;
}

impl Settings {
    /// `layers` over each other, the later ones over the earlier, each with the name that errors call it by.
    ///
    /// # Errors
    /// TOML that is none, unknown keys, and values that no training can have.
    pub fn layered(layers: &[(String, toml::Table)]) -> Result<Self> {
        let mut all = toml::Table::new();
        for (name, layer) in layers {
            // Each alone first, so that the error names the right one.
            layer
                .clone()
                .try_into::<Self>()
                .map_err(|e| Error::request(format!("{name}: {}", e.message())))?;
            all.extend(layer.clone());
        }
        let settings: Self = all.try_into().map_err(|e| Error::request(e.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let rules = [
            (self.batch > 0, "batch must be at least 1"),
            (self.accumulate > 0, "accumulate must be at least 1"),
            (
                self.context != 1,
                "context must be at least 2, as the first token of a row is never predicted (0 takes the rows' own length)",
            ),
            (self.max_steps > 0, "max-steps must be at least 1"),
            (self.save_every > 0, "save-every must be at least 1"),
            (self.keep_last > 0, "keep-last must be at least 1"),
            (self.log_every > 0, "log-every must be at least 1"),
            (self.learning_rate > 0.0 && self.learning_rate < 1e3, "learning-rate must lie above 0"),
            (
                (0.0..=self.learning_rate).contains(&self.min_learning_rate),
                "min-learning-rate must lie below it",
            ),
            ((0.0..1.0).contains(&self.beta1) && (0.0..1.0).contains(&self.beta2), "betas must lie below 1"),
            (self.epsilon > 0.0, "epsilon must lie above 0"),
            (self.weight_decay >= 0.0 && self.clip >= 0.0, "weight-decay and clip must not be negative"),
            ((0.0..=1.0).contains(&self.decay_share), "decay-share must lie between 0 and 1"),
            (
                self.batch <= 1 << 20 && self.accumulate <= 1 << 20,
                "batch and accumulate must be below a million",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::request(*rule)),
            None => Ok(()),
        }
    }

    /// The optimizer's part.
    pub fn optimizer(&self) -> AdamWSettings {
        AdamWSettings {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            clip: self.clip,
        }
    }

    /// The learning rate's part.
    pub fn rates(&self) -> Schedule {
        Schedule {
            kind: self.schedule,
            peak: self.learning_rate,
            smallest: self.min_learning_rate,
            warmup_steps: self.warmup_steps,
            max_steps: self.max_steps,
            decay_share: self.decay_share,
        }
    }
}

impl Overrides {
    /// What was typed, as a layer.
    ///
    /// # Errors
    /// A number that TOML cannot hold.
    pub fn layer(&self) -> Result<(String, toml::Table)> {
        let table = toml::Table::try_from(self).map_err(|e| Error::request(e.to_string()))?;
        Ok(("the command line".into(), table))
    }
}

/// A TOML file as a layer.
///
/// # Errors
/// It cannot be read or is no TOML.
pub fn layer_of(path: &Path) -> Result<(String, toml::Table)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    let table = toml::from_str(&text);
    let table = table.map_err(|e: toml::de::Error| Error::malformed(path, "", "TOML", e.message()))?;
    Ok((path.display().to_string(), table))
}

/// What a run is made of, beside its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// Preset or config.json.
    pub preset: String,
    /// Folders of shards, `[NAME=]FOLDER[:WEIGHT]`.
    pub data: Vec<String>,
    /// Folders of shards for validation instead of the held-out split.
    pub validation: Vec<String>,
    /// tokenizer.json, if it is not beside the shards.
    pub tokenizer: Option<PathBuf>,
    /// Where the run keeps its files.
    pub out: PathBuf,
    /// A checkpoint to begin from.
    pub init_from: Option<PathBuf>,
    /// Texts that samples go on from.
    pub prompts: Vec<String>,
    /// All other settings.
    pub settings: Settings,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn later_layers_win_and_wrong_keys_name_their_layer() {
        let file = ("a.toml".to_owned(), table("batch = 3\nseed = 7\nschedule = \"wsd\""));
        let typed = Overrides { batch: Some(5), ..Overrides::default() }.layer().unwrap();
        let settings = Settings::layered(&[file.clone(), typed]).unwrap();
        assert_eq!((settings.batch, settings.seed, settings.schedule), (5, 7, ScheduleKind::Wsd));
        let error =
            Settings::layered(&[file, ("b.toml".into(), table("bacth = 1"))]).unwrap_err().to_string();
        assert!(error.starts_with("b.toml") && error.contains("bacth"), "{error}");
        let error = Settings::layered(&[("c".into(), table("batch = 0"))]).unwrap_err().to_string();
        assert!(error.contains("batch"), "{error}");
    }

    #[test]
    fn settings_survive_the_file_they_are_saved_in() {
        let settings = Settings::default();
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
    }
}
