//! What a training will be before it begins: the model, its data, and the memory that it takes.

use super::text::Text;
use super::{config_of, is_file};
use crate::data::manifest::Manifest;
use crate::data::{Dataset, SourceSpec, Split};
use crate::model::Config;
use crate::settings::Run;
use crate::{Error, Result};
use candle_core::Device;
use std::fmt::Write;
use std::path::PathBuf;

const CARD: u64 = 24 << 30; // bytes of the card that people have

/// The parts of a training.
pub struct Plan {
    /// The model.
    pub config: Config,
    /// The tokenizer.
    pub text: Text,
    /// Rows to train on.
    pub train: Dataset,
    /// Rows to validate on.
    pub validation: Option<Dataset>,
    run: Run,
}

impl Plan {
    /// Opens all that `run` names.
    ///
    /// # Errors
    /// Whatever is missing or does not fit, by name.
    pub fn new(run: &Run) -> Result<Self> {
        let sources = run.data.iter().map(|argument| source(argument)).collect::<Result<Vec<_>>>()?;
        if sources.is_empty() {
            let hint = "--data FOLDER names shards; `moewe train shards` makes them from text";
            return Err(Error::request(format!("no data to train on: {hint}")));
        }
        let text = match tokenizer_of(run, &sources) {
            Some(path) => Text::open(&path)?,
            None => Text::none(),
        };
        let config = config_of(run, text.vocabulary(), context_of(run, &sources)?)?;
        let (vocabulary, context) = (config.vocabulary, config.context_length);
        let train = Dataset::open(&sources, Split::Train, context, vocabulary)?;
        let validation = validation_of(run, &sources, context, vocabulary)?;
        Ok(Self { config, text, train, validation, run: run.clone() })
    }

    /// Tokens of a step on one rank.
    fn step_tokens(&self) -> u64 {
        (self.run.settings.batch * self.run.settings.accumulate * self.train.context()) as u64
    }

    /// Refuses a training that cannot fit in the machine's memory.
    pub(super) fn check_memory(&self, device: &Device) -> Result<()> {
        let Some(available) = moewe_engine::os::memory::available().filter(|_| device.is_cpu()) else {
            return Ok(());
        };
        let needed = self.memory(4, self.run.settings.segment);
        if needed <= available {
            return Ok(());
        }
        let with_segments = self.memory(4, 1);
        let hint = if with_segments <= available { "--segment 1" } else { "a smaller --batch or preset" };
        let gb = |bytes: u64| bytes as f64 / 1e9;
        Err(Error::request(format!(
            "preset {} with --batch {} needs about {:.1} GB, {:.1} GB are free: try {hint}",
            self.run.preset,
            self.run.settings.batch,
            gb(needed),
            gb(available)
        )))
    }

    /// Bytes of a training that computes in numbers of `width` bytes.
    fn memory(&self, width: u64, segment: usize) -> u64 {
        let (total, _) = self.config.counts();
        let copies = if width == 4 { 0 } else { width };
        let fixed = total * (4 + 4 + 8 + copies); // masters, gradients, two moments, copies to compute with
        let tokens = (self.run.settings.batch * self.train.context()) as u64;
        let layers = self.config.block_count as u64;
        let all: u64 = (0..self.config.block_count).map(|layer| saved(&self.config, layer, width)).sum();
        let activations = match segment as u64 {
            0 => all,
            segment => {
                layers.div_ceil(segment) * 4 * self.config.embedding_length as u64 + all * segment / layers
            }
        };
        // The largest layer's gradients live beside its activations; the head works on 2^21 logits at a time.
        fixed + tokens * (activations + all / layers) + 3 * 4 * (1 << 21)
    }

    /// The plan for people: model, data, memory.
    pub fn describe(&self) -> String {
        let (total, active) = self.config.counts();
        let settings = &self.run.settings;
        let mut out = String::new();
        let mut line = |text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{text}");
        };
        line(format!("model        {} ({})", self.run.preset, self.config.architecture.model_type));
        line(format!("parameters   {total}, {active} active per token"));
        line(format!("vocabulary   {}, context {}", self.config.vocabulary, self.config.context_length));
        let (tokens, corpus) = (self.step_tokens() * settings.max_steps, self.train.tokens());
        line(format!("step         {} tokens, {} steps", self.step_tokens(), settings.max_steps));
        line(format!(
            "training     {tokens} tokens, {:.2} times the corpus of {corpus}",
            tokens as f64 / corpus as f64
        ));
        for (name, rows, share) in self.train.sources() {
            line(format!("  source     {name}: {rows} rows, {:.1} % of the stream", share * 100.0));
        }
        if let Some(cut) = self.train.cut() {
            line(format!("  cut        {cut}"));
        }
        let held_out = self.validation.as_ref().map_or(0, Dataset::rows);
        line(format!("validation   {held_out} rows, {} are used", held_out.min(settings.eval_rows)));
        for (name, segment) in [("all activations kept", 0), ("with --segment 1", 1)] {
            let bytes = self.memory(2, segment);
            let verdict = if bytes <= CARD { "fits" } else { "does not fit" };
            line(format!("memory BF16  {:.2} GB {name}: {verdict} a card of 24 GB", bytes as f64 / 1e9));
        }
        line(format!("memory F32   {:.2} GB on the CPU", self.memory(4, settings.segment) as f64 / 1e9));
        out
    }
}

/// Bytes that a token leaves behind in a layer for its backward.
pub(super) fn saved(c: &Config, layer: usize, width: u64) -> u64 {
    let (d, heads) = (c.embedding_length as u64, (c.head_count * c.head_length) as u64);
    let attention = 3 * 4 * d + width * (d + 2 * c.qkv_length() as u64 + 2 * heads);
    let branches = c.activation.branches() as u64;
    let hidden = if c.has_experts(layer) {
        c.experts.used * c.experts.length + c.experts.shared_length
    } else {
        c.feed_forward_length
    };
    attention + width * branches * hidden as u64
}

/// `[NAME=]FOLDER[:WEIGHT]`.
fn source(argument: &str) -> Result<SourceSpec> {
    let (name, rest) = match argument.split_once('=') {
        Some((name, rest)) => (name.to_owned(), rest),
        None => (String::new(), argument),
    };
    let weighted =
        rest.rsplit_once(':').and_then(|(folder, weight)| Some((folder, weight.parse::<f64>().ok()?)));
    let (folder, weight) = weighted.map_or((rest, None), |(folder, weight)| (folder, Some(weight)));
    let folder = PathBuf::from(folder);
    if !folder.is_dir() {
        let message = format!("--data {argument}: {} is no folder", folder.display());
        return Err(Error::request(message));
    }
    let own = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(SourceSpec { name: if name.is_empty() { own } else { name }, folder, weight })
}

fn tokenizer_of(run: &Run, sources: &[SourceSpec]) -> Option<PathBuf> {
    let beside = |source: &SourceSpec| {
        let own = source.folder.join("tokenizer.json");
        let above = source.folder.parent().map(|parent| parent.join("tokenizer.json"));
        [Some(own), above].into_iter().flatten().find(|path| is_file(path))
    };
    run.tokenizer.clone().or_else(|| sources.iter().find_map(beside))
}

/// The context that was typed, or that of the data; `None` is the preset's own.
fn context_of(run: &Run, sources: &[SourceSpec]) -> Result<Option<usize>> {
    if run.settings.context > 0 {
        return Ok(Some(run.settings.context));
    }
    for source in sources {
        if let Some(manifest) = Manifest::read(&source.folder)? {
            return Ok(Some(manifest.context));
        }
    }
    Ok(None)
}

fn validation_of(
    run: &Run,
    sources: &[SourceSpec],
    context: usize,
    vocabulary: usize,
) -> Result<Option<Dataset>> {
    if !run.validation.is_empty() {
        let sources = run.validation.iter().map(|argument| source(argument)).collect::<Result<Vec<_>>>()?;
        return Dataset::open(&sources, Split::Valid, context, vocabulary).map(Some);
    }
    match Dataset::open(sources, Split::Valid, context, vocabulary) {
        Ok(dataset) => Ok(Some(dataset)),
        Err(_) if run.settings.eval_every == 0 => Ok(None),
        Err(error) => Err(error),
    }
}
