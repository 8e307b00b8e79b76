//! What every conversion may be asked, whatever it starts from: the flags that `moewe convert` and `moewe merge` share,
//! its progress, and what is said of its report.

use super::output::{self, Table};
use super::progress::{PIECES, bar};
use super::text::read;
use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use moewe_convert::recipe::limit_of;
use moewe_convert::{Options, Override, Pad, Progress, Recipe, Report, Text};
use moewe_engine::eval::Importance;
use moewe_engine::os::interrupt::Listener;
use moewe_engine::quant::Format;
use regex::Regex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to convert.
#[derive(Args)]
pub(super) struct Conversion {
    /// Level from 2 to 8, 16 or 32; a fraction such as 4.25 is the true average of bits per weight
    #[arg(long, value_name = "N", conflicts_with = "format")]
    pub(super) bits: Option<f64>,
    /// A mix of llama.cpp such as Q4_K_M, a format such as BF16, or keep: as the source has it [default: Q8_0]
    #[arg(long, value_name = "NAME")]
    pub(super) format: Option<String>,
    /// Another format for the tensors whose names fit; may be given more than once
    #[arg(long = "tensor", value_name = "REGEX=FORMAT")]
    tensors: Vec<String>,
    /// Zeros that widen experts and other feed-forward networks to whole blocks: auto pads where it pays
    #[arg(long, value_name = "WHEN", default_value = "auto", value_enum)]
    pad: When,
    /// Weigh errors by the importance in this file, see `moewe importance`
    #[arg(long, value_name = "FILE", visible_alias = "imatrix")]
    pub(super) importance: Option<PathBuf>,
    /// Take importance that lacks some tensors, or has some that this model lacks
    #[arg(long, requires = "importance")]
    allow_partial: bool,
    /// Make up for errors, as the inputs that this text gives each matrix allow; takes as long as reading the text
    #[arg(long, value_name = "TEXT")]
    pub(super) calibrate: Option<PathBuf>,
    /// Convert weights that are NaN or infinite
    #[arg(long)]
    allow_nan: bool,
    /// Make rows for tokens beyond the embedding, as fine-tunes forget to; they are the mean of all others
    #[arg(long)]
    add_vocabulary_rows: bool,
    /// Print what would be written, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Replace an existing file
    #[arg(long)]
    pub(super) force: bool,
    /// Print what was written as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    pub(super) quiet: bool,
}

/// When to pad, in the command's words.
#[derive(Clone, Copy, clap::ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

impl From<When> for Pad {
    fn from(when: When) -> Self {
        match when {
            When::Auto => Self::Auto,
            When::Always => Self::Always,
            When::Never => Self::Never,
        }
    }
}

impl Conversion {
    /// How formats are chosen.
    pub(super) fn recipe(&self) -> Result<Recipe> {
        match (self.bits, self.format.as_deref()) {
            (None, name) => Ok(Recipe::by_name(name.unwrap_or("Q8_0"))?),
            (Some(bits), _) => of_bits(bits),
        }
    }

    /// Whether formats were asked for.
    pub(super) fn has_level(&self) -> bool {
        self.bits.is_some() || self.format.is_some()
    }

    /// A flag that was given and is about the formats of GGUF files.
    pub(super) fn of_files(&self) -> Option<&'static str> {
        let given = [
            ("--bits", self.bits.is_some()),
            ("--format", self.format.is_some()),
            ("--tensor", !self.tensors.is_empty()),
            ("--pad", !matches!(self.pad, When::Auto)),
            ("--importance", self.importance.is_some()),
            ("--calibrate", self.calibrate.is_some()),
            ("--force", self.force),
        ];
        given.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// What the file's name says of it.
    pub(super) fn level(&self, recipe: &Recipe) -> String {
        self.bits.map_or_else(|| recipe.to_string(), level)
    }

    /// The same for the library; `listener` stops it.
    pub(super) fn options(&self, recipe: Recipe, listener: &Listener) -> Result<Options> {
        let overrides = self.tensors.iter().map(|text| over(text)).collect::<Result<_>>()?;
        let importance = self.importance.as_ref().map(Importance::open).transpose()?.map(Arc::new);
        let text = |path: &PathBuf| Ok::<_, anyhow::Error>(Text { text: read(path)?, context: CONTEXT });
        let calibrate = self.calibrate.as_ref().map(text).transpose()?;
        Ok(Options {
            overrides,
            pad: self.pad.into(),
            importance,
            allow_partial: self.allow_partial,
            calibrate,
            allow_nan: self.allow_nan,
            add_vocabulary_rows: self.add_vocabulary_rows,
            dry_run: self.dry_run,
            force: self.force,
            stop: listener.flag(),
            ..Options::with(recipe)
        })
    }

    /// What a person should look at on stderr, the plan of a dry run and a line of figures on stdout.
    pub(super) fn print(&self, out: &Path, report: &Report) -> Result<()> {
        warn(report);
        if !self.quiet {
            note_oddities(report);
        }
        if self.dry_run {
            print_plan(report)?;
        }
        // Zeros take bits, but are no weights.
        let per = if report.paddings.is_empty() { "" } else { " of the source" };
        output::print(format!(
            "{}: {}, {} tensors, {} parameters, {:.3} bits per weight{per}, {}",
            out.display(),
            report.architecture,
            report.tensors,
            output::count(report.weights),
            report.bits_per_weight,
            output::bytes(report.bytes)
        ))
    }
}

/// What `--bits` asks for.
pub(super) fn of_bits(bits: f64) -> Result<Recipe> {
    match bits {
        32.0 => Ok(Recipe::by_name("F32")?),
        16.0 => Ok(Recipe::by_name("F16")?),
        _ if bits.fract() == 0.0 => match limit_of(bits as u32) {
            Some(limit) => Ok(Recipe::Bits(limit)),
            None => bail!("--bits {bits}: levels are 2 to 8, 16 and 32; a fraction is a true average"),
        },
        _ if (1.0..32.0).contains(&bits) => Ok(Recipe::Bits(bits)),
        _ => bail!("--bits {bits}: an average lies between 1 and 32"),
    }
}

/// What the name of a file says of its bits.
pub(super) fn level(bits: f64) -> String {
    format!("{bits}bit")
}

/// Says why a file is larger than asked for.
pub(super) fn note_budget(recipe: Recipe, report: &Report) {
    let Recipe::Bits(limit) = recipe else { return };
    if report.bits_per_weight > limit {
        output::note(format!(
            "note: {limit} bits per weight are out of reach: rows that 256 does not divide, and tensors whose format is given, take more"
        ));
    }
}

fn over(text: &str) -> Result<Override> {
    let Some((pattern, name)) = text.rsplit_once('=') else {
        bail!("--tensor {text}: expected a pattern, = and a format, such as ffn_down=Q6_K");
    };
    let pattern = Regex::new(pattern).with_context(|| format!("--tensor {text}"))?;
    match Format::by_name(name) {
        Some(format) if format.quantize.is_some() => Ok(Override { pattern, format }),
        _ => bail!("--tensor {text}: {name} is no format that is written"),
    }
}

/// Tokens of a calibration text that are computed together.
const CONTEXT: usize = 512;

/// Progress on a terminal only: in bytes, and in pieces of a calibration text.
pub(super) struct Bar {
    bytes: ProgressBar,
    text: ProgressBar,
}

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        let bytes = bar(quiet, "{bar:30} {bytes}/{total_bytes}, {eta} left  {msg}");
        Self { bytes, text: bar(quiet, PIECES) }
    }

    pub(super) fn clear(&self) {
        self.text.finish_and_clear();
        self.bytes.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, bytes: u64) {
        self.bytes.set_length(bytes);
    }

    fn read(&self, done: usize, all: usize) {
        if done == 1 {
            self.text.reset();
        }
        self.text.set_length(all as u64);
        self.text.set_position(done as u64);
        if done == all {
            self.text.finish_and_clear();
        }
    }

    fn tensor(&self, name: &str) {
        self.bytes.set_message(output::excerpt(name, 40));
    }

    fn advance(&self, bytes: u64) {
        self.bytes.inc(bytes);
    }
}

/// What may make a model useless, said whatever was asked for.
pub(super) fn warn(report: &Report) {
    for odd in &report.suspicious {
        output::note(format!(
            "warning: {} has {} weights that are no numbers and {} beyond the format's range",
            output::excerpt(&odd.tensor, 80),
            odd.not_finite,
            odd.out_of_range
        ));
    }
}

fn note_oddities(report: &Report) {
    report.remarks.iter().for_each(|remark| output::note(format!("note: {remark}")));
    note_dropped(&report.dropped);
    note_losses(report);
    report.paddings.iter().for_each(output::note);
    report.substitutions.iter().for_each(output::note);
    note_fallbacks(report);
}

/// All that a person should know of a conversion.
pub(super) fn note(recipe: Recipe, report: &Report, quiet: bool) {
    warn(report);
    if !quiet {
        note_oddities(report);
        note_budget(recipe, report);
    }
}

/// What the weights lose that others would keep.
fn note_losses(report: &Report) {
    if !report.requantized.is_empty() {
        output::note(format!(
            "note: the source is quantized already ({}), and its errors stay; an unquantized one gives a better file",
            report.requantized.join(", ")
        ));
    }
    without_importance(&report.unweighed).into_iter().for_each(output::note);
}

/// A line about tensors that have none.
fn without_importance(names: &[String]) -> Option<String> {
    let name = output::excerpt(names.first()?, 80);
    Some(match names.len() {
        1 => format!("note: {name} has no importance and is rounded without"),
        count => {
            format!("note: {count} tensors have no importance and are rounded without, such as {name}")
        }
    })
}

/// Tensors of the source that are not in the file, those alike but for their numbers as one.
fn note_dropped(names: &[String]) {
    let mut patterns: Vec<(String, usize)> = Vec::new();
    for name in names {
        let parts = name.split('.').map(|part| if is_number(part) { "*" } else { part });
        let pattern = parts.collect::<Vec<_>>().join(".");
        match patterns.iter_mut().find(|(known, _)| *known == pattern) {
            Some((_, count)) => *count += 1,
            None => patterns.push((pattern, 1)),
        }
    }
    let line = |(pattern, count): &(String, usize)| {
        let name = output::excerpt(pattern, 60);
        if *count > 1 { format!("{name} ({count})") } else { name }
    };
    let shown: Vec<_> = patterns.iter().take(8).map(line).collect();
    let more: usize = patterns.iter().skip(8).map(|(_, count)| count).sum();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if !names.is_empty() {
        output::note(format!("left out: {}{more}", shown.join(", ")));
    }
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Experts that calibration did not reach, a line per tensor.
fn note_fallbacks(report: &Report) {
    for few in report.fallbacks.chunk_by(|a, b| a.tensor == b.tensor) {
        let experts = few.iter().take(16).map(|few| format!("{} ({})", few.expert, few.rows));
        let more = if few.len() > 16 { format!(" and {} more", few.len() - 16) } else { String::new() };
        output::note(format!(
            "{}: too few tokens for experts (tokens): {}{more}; importance only",
            few[0].tensor,
            experts.collect::<Vec<_>>().join(", ")
        ));
    }
}

fn print_plan(report: &Report) -> Result<()> {
    let mut table = Table::new(&["TENSOR", "FORMAT", "SIZE"], &[2]);
    for planned in &report.plan {
        let name = output::excerpt(&planned.tensor, 60);
        table.row([name, planned.format.to_owned(), output::bytes(planned.bytes)]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tensor_is_named_and_of_several_the_first() {
        let said = |names: &[&str]| {
            without_importance(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["a.weight"]).unwrap(), "note: a.weight has no importance and is rounded without");
        assert_eq!(
            said(&["a.weight", "b.weight"]).unwrap(),
            "note: 2 tensors have no importance and are rounded without, such as a.weight"
        );
    }
}
