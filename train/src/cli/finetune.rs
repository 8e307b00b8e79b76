//! `moewe train finetune`: conversations become rows, of which the answers are trained. The data are
//! [`crate::data::chat`]'s.

use super::Command;
use super::tune::Tune;
use super::watch::{print, watch};
use crate::data::chat::{self, ChatRows, Markers, Row, Settings, Wording};
use crate::{Error, Result};
use clap::Parser;
use moewe_engine::os::interrupt;
use serde_json::Value as Json;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Tokens of a row where neither a person nor the model says fewer.
const CONTEXT: usize = 2048;

/// Train a model on conversations
#[derive(Parser)]
#[command(name = "finetune")]
pub(super) struct Finetune {
    /// Folder of the model: config.json, tokenizer.json and weights
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    tune: Tune,
    /// Print the first N examples with what is trained in colour (in brackets where there is none), and stop
    #[arg(long, value_name = "N")]
    show_mask: Option<usize>,
    /// Print what the data are and what becomes of them, and stop
    #[arg(long)]
    dry_run: bool,
    /// Threads [default: as many as the machine runs at a time]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Flags about the data.
#[derive(clap::Args)]
struct Data {
    /// Conversations or texts: JSONL, one example a line (also .gz), or a folder of such files; messages, ShareGPT, Alpaca,
    /// prompt and completion, or text, as the keys of the first line say
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// The same for validation, instead of a share of the data
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "holdout")]
    validation: Vec<PathBuf>,
    /// Share of the tokens that is held out for validation, in whole examples chosen by their content
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    holdout: f64,
    /// Chat template in the place of the model's: chatml, llama3, mistral, gemma, deepseek, harmony, alpaca, or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Most tokens of a row; what is longer is cut after the last answer that fits [default: 2048, or the model's where it
    /// has fewer]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// One example per row; else a row holds as many as fit, which do not see each other
    #[arg(long)]
    no_packing: bool,
}

impl Data {
    fn settings(&self, model: &Path, stop: Arc<AtomicBool>) -> Result<Settings> {
        Ok(Settings {
            data: self.data.clone(),
            validation: self.validation.clone(),
            holdout: self.holdout,
            context: self.context_of(model)?,
            packing: !self.no_packing,
            stop,
        })
    }

    /// The length of rows for `model`.
    fn context_of(&self, model: &Path) -> Result<usize> {
        let path = model.join("config.json");
        let text = std::fs::read(&path).map_err(|error| Error::io(&path, "read", error))?;
        let config: Json =
            serde_json::from_slice(&text).map_err(|error| Error::malformed(&path, "", "JSON", error))?;
        let keys = ["max_position_embeddings", "n_positions", "max_seq_len", "block_size"];
        let most = keys.iter().find_map(|key| config[*key].as_u64()).map(|most| most as usize);
        let context = self.context.unwrap_or_else(|| CONTEXT.min(most.unwrap_or(CONTEXT)));
        if let Some(most) = most.filter(|most| context > *most) {
            tracing::warn!(
                "--context {context} is longer than the {most} tokens that the model was made for"
            );
        }
        Ok(context)
    }
}

impl Command for Finetune {
    fn run(self) -> Result<()> {
        super::limit_threads(self.threads)?;
        let listener = interrupt::listen_to_all();
        let settings = self.data.settings(&self.model, listener.flag())?;
        let markers = if self.tune.trains_all() { Markers::Appended } else { Markers::Known };
        let wording = Wording::open(&self.model, self.data.chat_template.as_deref(), markers)?;
        if let Some(count) = self.show_mask {
            super::say(&chat::show(&settings, &wording, count, is_coloured())?)?;
            if !self.dry_run {
                return Ok(());
            }
        }
        let tuning = self.tune.tuning(&self.model, settings.context, &wording)?;
        if !self.dry_run {
            self.tune.check(&tuning)?;
        }
        let config = tuning.config()?;
        let rows = chat::prepare(&settings, &wording, &mut watch(self.quiet))?;
        let steps = tuning.steps(rows.train.len() as u64);
        let plan = format!("{}{}", describe(&rows, &wording, &settings), tuning.describe(&config));
        if self.dry_run {
            let plan = format!("{plan}{:12}{steps} of up to {} rows", "steps", tuning.batch);
            return print(plan);
        }
        drop(listener); // the training listens itself
        self.tune.run(tuning, &rows, &wording)
    }
}

/// Whether what is printed may have colours.
fn is_coloured() -> bool {
    let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    is_wanted && std::io::stdout().is_terminal()
}

/// What the data are and what became of them.
fn describe(rows: &ChatRows, wording: &Wording, settings: &Settings) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:12}{text}"); // nobody fails to write into a string
    };
    for (number, (kind, count)) in rows.counts.kinds.iter().enumerate() {
        line(if number == 0 { "examples" } else { "" }, format!("{count} of kind {kind}"));
    }
    if !rows.counts.unread.is_empty() {
        line("", format!("keys that are not read: {}", rows.counts.unread.join(", ")));
    }
    for (note, count) in &rows.counts.notes {
        line("", format!("{count} {}", note.text()));
    }
    match (wording.template_name(), wording.has_blocks()) {
        (None, _) => line("template", "none".to_owned()),
        (Some(name), true) => line("template", format!("{name}, which marks what is trained")),
        (Some(name), false) => {
            line("template", format!("{name}; trained are answers with the end token after each"));
        }
    }
    line("train", describe_rows(&rows.train, settings));
    match rows.validation.is_empty() {
        true => line("validation", "none".to_owned()),
        false => line("validation", describe_rows(&rows.validation, settings)),
    }
    let tokens: usize = rows.train.iter().chain(&rows.validation).map(|row| row.tokens.len()).sum();
    line("memory", format!("{:.1} MB for the rows", tokens as f64 * 5.0 / 1e6));
    out
}

fn describe_rows(rows: &[Row], settings: &Settings) -> String {
    let examples: usize = rows.iter().map(|row| row.segments.len()).sum();
    let tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
    let trained: usize = rows.iter().map(Row::labels).sum();
    let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    format!(
        "{examples} examples, {tokens} tokens, {trained} of them trained ({:.1} %); {} rows of up to {}, {:.1} % full",
        percent(trained, tokens),
        rows.len(),
        settings.context,
        percent(tokens, rows.len() * settings.context)
    )
}
