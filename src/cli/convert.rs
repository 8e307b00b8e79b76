//! `moewe convert`: a checkpoint becomes a GGUF file. The work is the crate moewe-convert's.

use super::{Command, output};
use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use moewe_convert::{Options, Progress, Report};
use moewe_engine::os::interrupt;
use moewe_engine::quant::{FORMATS, Format};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Convert a Hugging Face folder, a PyTorch checkpoint or another GGUF file to GGUF.
#[derive(Parser)]
#[command(name = "convert")]
pub(super) struct Convert {
    /// A folder with config.json, weights and tokenizer, one weight file, or a GGUF file
    src: PathBuf,
    /// The file to write [default: the source's name and the format, in this folder]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Bits per weight: 8, 16 or 32
    #[arg(long, value_name = "N", conflicts_with = "format", value_parser = ["8", "16", "32"])]
    bits: Option<String>,
    /// Format of the matrices, such as Q8_0 [default: Q8_0]
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Command for Convert {
    fn run(self) -> Result<()> {
        let format = self.chosen_format()?;
        let out = self.output.clone().map_or_else(|| default_output(&self.src, format), Ok)?;
        let listener = interrupt::listen();
        let options = Options { force: self.force, stop: listener.flag(), ..Options::new(format) };
        let bar = Bar(if self.quiet { ProgressBar::hidden() } else { progress_bar() });
        let report = moewe_convert::convert(&self.src, &out, &options, &bar);
        bar.0.finish_and_clear();
        self.print(&out, &report?)
    }
}

impl Convert {
    fn chosen_format(&self) -> Result<&'static Format> {
        let of_bits = match self.bits.as_deref() {
            Some("32") => "F32",
            Some("16") => "F16",
            _ => "Q8_0",
        };
        let name = self.format.as_deref().unwrap_or(of_bits);
        let written: Vec<_> = FORMATS.iter().filter(|f| f.quantize.is_some()).map(|f| f.name).collect();
        match Format::by_name(name) {
            Some(format) if format.quantize.is_some() => Ok(format),
            Some(format) => bail!("{format} can be read but not written; there are {}", written.join(", ")),
            None => bail!("no format is called {name}; there are {}", written.join(", ")),
        }
    }
}

/// The source's own name beside us: `./olmoe-Q8_0.gguf`.
fn default_output(src: &Path, format: &Format) -> Result<PathBuf> {
    let full = src.canonicalize().with_context(|| format!("{}: cannot open", src.display()))?;
    let stem = if full.is_dir() { full.file_name() } else { full.file_stem() };
    let stem = stem.map_or("model".into(), |stem| stem.to_string_lossy());
    Ok(PathBuf::from(format!("{stem}-{format}.gguf")))
}

/// Progress in bytes, on a terminal only.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn tensor(&self, name: &str) {
        self.0.set_message(output::excerpt(name, 40));
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {eta} left  {msg}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Convert {
    /// The report on stdout, what a person should look at on stderr.
    fn print(&self, out: &Path, report: &Report) -> Result<()> {
        for odd in &report.suspicious {
            output::note(format!(
                "warning: {} has {} weights that are no numbers and {} beyond the format's range",
                output::excerpt(&odd.tensor, 80),
                odd.not_finite,
                odd.out_of_range
            ));
        }
        if self.json {
            return output::json(&json!({ "path": out, "report": report }));
        }
        if !self.quiet {
            report.substitutions.iter().for_each(output::note);
        }
        output::print(format!(
            "{}: {}, {} tensors, {} parameters, {:.3} bits per weight, {}",
            out.display(),
            report.architecture,
            report.tensors,
            output::count(report.weights),
            report.bits_per_weight,
            output::bytes(report.bytes)
        ))
    }
}
