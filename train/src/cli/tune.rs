//! The flags of `moewe train finetune` that belong to training, and the training itself.

use super::say;
use crate::data::chat::{ChatRows, Wording};
use crate::distributed::{Launch, World};
use crate::model::{Config, Lora, Target, Trained};
use crate::monitor::{self, Monitor};
use crate::optimizer::ScheduleKind;
use crate::settings::Precision;
use crate::trainer::device_named;
use crate::trainer::tuning::{Tuner, Tuning};
use crate::{Error, Result};
use moewe_engine::os::interrupt;
use std::path::{Path, PathBuf};

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Low-rank matrices beside those of the model; the result is an adapter
    Lora,
    /// The routers of experts alone
    Router,
    /// Everything
    All,
}

/// A kind of matrices that adapters are beside, or most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Beside {
    /// Queries, keys, values and the output of attention
    Attention,
    /// Routed experts
    Experts,
    /// Shared experts
    Shared,
    /// Layers without experts
    Dense,
    /// Routers
    Router,
    /// The output head
    Head,
    /// All of the model's but routers and head
    All,
}

/// Flags about training.
#[derive(clap::Args)]
pub(super) struct Tune {
    /// What is trained
    #[arg(long, value_enum, default_value_t = What::Lora)]
    train: What,
    /// Where adapters are: attention, experts, shared, dense, router, head, or all (but router and head)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "attention", value_name = "KINDS")]
    lora_targets: Vec<Beside>,
    /// Rows of an adapter's first matrix
    #[arg(long, value_name = "N", default_value_t = 16)]
    lora_rank: usize,
    /// Factor of adapters, which is divided by their rank
    #[arg(long, value_name = "F", default_value_t = 32.0)]
    lora_alpha: f64,
    /// Share of the inputs of adapters that is dropped
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    lora_dropout: f64,
    /// Divide the factor of adapters by the root of their rank instead
    #[arg(long)]
    rslora: bool,
    /// Train the lengths of the rows of attention's matrices besides (DoRA)
    #[arg(long)]
    dora: bool,
    /// Give routers adapters, too
    #[arg(long)]
    train_router: bool,
    /// Largest learning rate [default: 1e-4 for lora, 1e-3 for router, 2e-5 for all]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Course of the rate after a warm-up of 3 % of the steps
    #[arg(long, value_enum, default_value_t = ScheduleKind::Cosine)]
    schedule: ScheduleKind,
    /// Decoupled weight decay; norms and biases have none
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    weight_decay: f64,
    /// Largest global norm of the gradients; 0 does not clip
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f64,
    /// How often each row is seen
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: u64,
    /// Steps after which it ends, if that is earlier
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_steps: u64,
    /// Rows of a step
    #[arg(long, value_name = "ROWS", default_value_t = 16)]
    batch: usize,
    /// Rows that are computed at a time
    #[arg(long, value_name = "ROWS", default_value_t = 4)]
    micro_batch: usize,
    /// Factor of the load-balance loss [default: the model's where routers are trained, else 0]
    #[arg(long, value_name = "F")]
    aux: Option<f64>,
    /// Seed of adapters, their dropout and the order of rows
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Compute activations again in the backward, in segments of so many layers; 0 keeps them all
    #[arg(long, value_name = "LAYERS", default_value_t = 0)]
    segment: usize,
    /// Precision of the computation
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Steps between validations; 0 for one at the end
    #[arg(long, value_name = "N", default_value_t = 0)]
    eval_every: u64,
    /// Steps between checkpoints; 0 for one at the end
    #[arg(long, value_name = "N", default_value_t = 0)]
    save_every: u64,
    /// Checkpoints that are kept
    #[arg(long, value_name = "N", default_value_t = 2)]
    keep_last: usize,
    /// Steps between reports
    #[arg(long, value_name = "N", default_value_t = 1)]
    log_every: u64,
    /// What records the training: terminal, jsonl, tensorboard
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "terminal,jsonl,tensorboard")]
    monitor: Vec<String>,
    /// Folder of the result (an adapter in the layout of peft, or a whole model) and of checkpoints; the same command
    /// goes on from these
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace a result that stands there
    #[arg(long, requires = "out")]
    force: bool,
}

impl Tune {
    /// Whether the embedding is trained, so that it may grow.
    pub(super) fn trains_all(&self) -> bool {
        self.train == What::All
    }

    fn trained(&self, config: &Config) -> Result<Trained> {
        let mut targets: Vec<Target> = vec![];
        for beside in &self.lora_targets {
            match beside {
                Beside::Attention => targets.push(Target::Attention),
                Beside::Experts => targets.push(Target::Experts),
                Beside::Shared => targets.push(Target::Shared),
                Beside::Dense => targets.push(Target::Dense),
                Beside::Router => targets.push(Target::Router),
                Beside::Head => targets.push(Target::Head),
                Beside::All => {
                    let all = [Target::Attention, Target::Experts, Target::Shared, Target::Dense];
                    targets.extend(all.into_iter().filter(|target| target.is_in(config)));
                }
            }
        }
        targets.extend(self.train_router.then_some(Target::Router));
        targets.sort_unstable();
        targets.dedup();
        Ok(match self.train {
            What::All => Trained::All,
            What::Router => Trained::Router,
            What::Lora => Trained::Lora(Lora {
                targets,
                rank: self.lora_rank,
                alpha: self.lora_alpha,
                rslora: self.rslora,
                dora: self.dora,
                dropout: self.lora_dropout,
            }),
        })
    }

    /// The settings for the model in `folder` with rows of `context`, and a vocabulary that may have grown.
    pub(super) fn tuning(&self, folder: &Path, context: usize, wording: &Wording) -> Result<Tuning> {
        let out = self.out.clone().unwrap_or_default();
        let config = Config::named_for(&folder.to_string_lossy(), None, Some(context))?;
        let own = Tuning::new(folder.to_owned(), out, self.trained(&config)?);
        let grows = wording.vocabulary().appended().next().is_some();
        let rows = config.vocabulary;
        let size = wording.vocabulary().size();
        Ok(Tuning {
            context,
            vocabulary: if grows && size > rows { size } else { 0 },
            learning_rate: self.learning_rate.unwrap_or(own.learning_rate),
            schedule: self.schedule,
            weight_decay: self.weight_decay,
            clip: self.clip,
            epochs: self.epochs,
            max_steps: self.max_steps,
            batch: self.batch,
            micro_batch: self.micro_batch,
            aux: self.aux,
            seed: self.seed,
            segment: self.segment,
            precision: self.precision,
            device: self.device.clone(),
            eval_every: self.eval_every,
            save_every: self.save_every,
            keep_last: self.keep_last,
            log_every: self.log_every,
            ..own
        })
    }

    /// Refuses what would only fail after the data have been read.
    pub(super) fn check(&self, tuning: &Tuning) -> Result<()> {
        tuning.config()?;
        if self.out.is_none() {
            return Err(Error::request("-o FOLDER says where the result goes"));
        }
        if self.force { Ok(()) } else { Tuner::check_free(tuning) }
    }

    /// Trains on `rows` and writes the result.
    pub(super) fn run(&self, tuning: Tuning, rows: &ChatRows, wording: &Wording) -> Result<()> {
        let launch = Launch::from_environment()?;
        let device = device_named(&tuning.device, launch.local_rank)?;
        tuning.check_memory(&tuning.config()?, &device)?;
        let world = World::join(&launch, &device)?;
        let outcome = self.train(tuning, rows, wording, (world.clone(), &device));
        if let Some(error) = outcome.as_ref().err().filter(|_| world.size > 1) {
            super::ending(error);
            world.abort(1); // the others would wait for this rank
        }
        outcome
    }

    fn train(
        &self,
        tuning: Tuning,
        rows: &ChatRows,
        wording: &Wording,
        (world, device): (World, &candle_core::Device),
    ) -> Result<()> {
        let (is_first, out, log_every) = (world.is_first(), tuning.out.clone(), tuning.log_every);
        let mut tuner = Tuner::open(tuning, rows, world, device)?;
        tuner.changes().iter().filter(|_| is_first).for_each(|change| tracing::warn!("{change}"));
        let mut monitor = Monitor::default();
        if is_first {
            let settings = monitor::Settings { folder: out.clone(), step: tuner.step(), log_every };
            monitor = Monitor::open(&settings, &self.monitor)?;
        }
        let interrupt = interrupt::listen_to_all();
        let outcome = tuner.train(&mut monitor, &interrupt.flag())?;
        if !is_first {
            return Ok(());
        }
        if !outcome.finished {
            let step = outcome.step;
            return say(&format!(
                "stopped after step {step}; the same command goes on from {}\n",
                out.display()
            ));
        }
        tuner.export(&self.companions(wording)?)?;
        say(&format!("{}\n", out.display()))
    }

    /// Files beside the result that are not the model's own: a tokenizer that has grown, a template that was given.
    fn companions(&self, wording: &Wording) -> Result<Vec<(String, String)>> {
        let mut all = vec![];
        if let Some(text) = wording.vocabulary().changed_file()? {
            all.push(("tokenizer.json".to_owned(), text));
        }
        if let Some(source) = wording.template_source() {
            all.push(("chat_template.jinja".to_owned(), source.to_owned()));
        }
        Ok(all)
    }
}
