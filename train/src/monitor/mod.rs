//! What a training tells the world while it runs: the events, and the sinks that write them down.
//!
//! A sink is one file and one line in [`SINKS`]. This room measures nothing: the trainer fills the reports.

pub mod blocks;
pub mod jsonl;
pub mod protobuf;
pub mod samples;
pub mod tensorboard;
pub mod terminal;

use crate::Result;
use serde::Serialize;
use std::path::PathBuf;

/// Something worth writing down. Every `step` counts finished optimizer steps: the first report says 1, and a
/// training resumed from checkpoint 1000 reports 1001 next.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The training starts or goes on.
    Start(Start),
    /// An optimizer step is done.
    Step(StepReport),
    /// The model was measured on text that it does not train on.
    Validation(Validation),
    /// The model wrote a text.
    Sample {
        /// Finished steps.
        step: u64,
        /// What it was given.
        prompt: String,
        /// What it wrote after that.
        text: String,
    },
    /// A checkpoint is complete on disk.
    Checkpoint {
        /// Finished steps.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// The training is over, finished or stopped.
    End {
        /// Finished steps.
        step: u64,
    },
}

/// Where a training starts and what it is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Start {
    /// Steps that the checkpoint had finished; 0 for a new training.
    pub step: u64,
    /// Steps that the whole training takes.
    pub steps: u64,
    /// A few lines for people: model, data, seed.
    pub description: String,
}

/// One optimizer step. Losses are means over the step's tokens.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StepReport {
    /// Finished steps, this one included.
    pub step: u64,
    /// Training tokens so far, over all ranks.
    pub tokens_seen: u64,
    /// The sum that is differentiated.
    pub loss: f64,
    /// Its language part, nats per token.
    pub cross_entropy: f64,
    /// Its load-balancing part, coefficient included.
    pub load_balance: f64,
    /// Its router z-loss part, coefficient included.
    pub router_z: f64,
    /// As applied in this step.
    pub learning_rate: f64,
    /// Euclidean norm over all parameters before clipping.
    pub gradient_norm: f64,
    /// Over all ranks, since the report before.
    pub tokens_per_second: f64,
    /// Resident or device memory of this rank.
    pub memory_bytes: u64,
    /// One entry per layer with experts; may be empty on steps that are not worth the space.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertLoad>,
}

/// How the router of one layer spread the tokens of a step.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExpertLoad {
    /// Index of the layer in the model.
    pub layer: usize,
    /// Tokens that each expert worked on, without dropped ones.
    pub counts: Vec<u64>,
    /// Assignments that found their expert full.
    pub dropped: u64,
    /// Mean entropy of the router's distribution, nats; its largest value is ln(expert_count).
    pub entropy: f64,
}

/// A measurement on the validation text.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Validation {
    /// Finished steps.
    pub step: u64,
    /// Nats per token.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Comparable between tokenizers; known where the text's length in bytes is.
    pub bits_per_byte: Option<f64>,
    /// How many tokens were predicted.
    pub tokens: u64,
}

/// Where events are written.
pub trait Sink: Send {
    /// Writes one event down.
    ///
    /// # Errors
    /// When the file or terminal does not take it.
    fn record(&mut self, event: &Event) -> Result<()>;
}

/// What sinks need to know when they open.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the training, which must exist.
    pub folder: PathBuf,
    /// Finished steps of the checkpoint that the training goes on from; what was written beyond it is void.
    pub step: u64,
    /// Log lines without a terminal: one every so many steps.
    pub log_every: u64,
}

/// One row of the table of sinks.
pub struct SinkKind {
    /// As people choose it.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    open: fn(&Settings) -> Result<Box<dyn Sink>>,
}

/// Every sink there is.
pub static SINKS: &[SinkKind] = &[
    SinkKind { name: "terminal", about: "progress on standard error", open: terminal::open },
    SinkKind { name: "jsonl", about: "metrics.jsonl, one event per line", open: jsonl::open },
    SinkKind { name: "samples", about: "samples.txt, texts that the model wrote", open: samples::open },
    SinkKind { name: "tensorboard", about: "event files in tensorboard/", open: tensorboard::open },
];

/// The open sinks of a training.
#[derive(Default)]
pub struct Monitor {
    sinks: Vec<(&'static str, Box<dyn Sink>)>,
}

impl Monitor {
    /// Opens the sinks of these names.
    ///
    /// # Errors
    /// An unknown name, or a file that cannot be opened.
    pub fn open<S: AsRef<str>>(settings: &Settings, names: &[S]) -> Result<Self> {
        let mut monitor = Self::default();
        for name in names {
            let kind = find(name.as_ref())?;
            monitor.sinks.push((kind.name, (kind.open)(settings)?));
        }
        Ok(monitor)
    }

    /// Adds a sink of one's own.
    pub fn add(&mut self, name: &'static str, sink: Box<dyn Sink>) {
        self.sinks.push((name, sink));
    }

    /// Hands the event to every sink. One that fails is closed with a warning: a full disk under the logs must not
    /// end a training of days.
    ///
    /// # Errors
    /// When the file or terminal does not take it.
    pub fn record(&mut self, event: &Event) {
        self.sinks.retain_mut(|(name, sink)| {
            let outcome = sink.record(event);
            if let Err(error) = &outcome {
                tracing::warn!("{name} stops recording until the next start: {error}");
            }
            outcome.is_ok()
        });
    }
}

fn find(name: &str) -> Result<&'static SinkKind> {
    let names = || SINKS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    let kind = SINKS.iter().find(|kind| kind.name == name);
    kind.ok_or_else(|| crate::Error::request(format!("no monitor is called {name:?}; there are {}", names())))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Sink for Full {
        fn record(&mut self, _: &Event) -> Result<()> {
            Err(crate::Error::io("metrics", "write", std::io::ErrorKind::StorageFull.into()))
        }
    }

    #[test]
    fn every_sink_opens_by_name_and_takes_every_event() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { folder: folder.path().to_owned(), step: 0, log_every: 1 };
        let names: Vec<_> = SINKS.iter().map(|kind| kind.name).collect();
        let mut monitor = Monitor::open(&settings, &names).unwrap();
        let events = [
            Event::Start(Start { steps: 2, description: "tiny".into(), ..Default::default() }),
            Event::Step(StepReport { step: 1, experts: vec![ExpertLoad::default()], ..Default::default() }),
            Event::Validation(Validation { step: 1, ..Default::default() }),
            Event::Sample { step: 1, prompt: "Es war".into(), text: " einmal".into() },
            Event::Checkpoint { step: 1, path: "checkpoint-1".into() },
            Event::End { step: 1 },
        ];
        events.iter().for_each(|event| monitor.record(event));
        assert_eq!(monitor.sinks.len(), SINKS.len(), "no sink failed");
        let error = Monitor::open(&settings, &["wandb"]).err().unwrap().to_string();
        assert!(error.contains("\"wandb\"") && error.contains("tensorboard"), "{error}");
    }

    #[test]
    fn a_failing_sink_is_closed_and_the_training_goes_on() {
        let mut monitor = Monitor::default();
        monitor.add("full", Box::new(Full));
        monitor.record(&Event::End { step: 1 });
        assert!(monitor.sinks.is_empty());
    }
}
