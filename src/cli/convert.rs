//! `moewe convert`: a checkpoint becomes a GGUF file. The work is the crate moewe-convert's.

use super::conversion::{self, Bar, Conversion};
use super::options::scaled;
use super::{Command, models, output};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_convert::Options;
use moewe_convert::adapter::Named;
use moewe_convert::convert_adapter;
use moewe_engine::gguf::Existing;
use moewe_engine::os::interrupt;
use moewe_engine::quant::Format;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Convert a Hugging Face folder, a PyTorch checkpoint or another GGUF file to GGUF.
#[derive(Parser)]
#[command(name = "convert")]
pub(super) struct Convert {
    /// A folder with config.json, weights and tokenizer, one weight file, a GGUF file, or a remote name such as
    /// hf:OWNER/REPO
    src: PathBuf,
    /// The file to write [default: the source's name and the format, in this folder]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Pull a remote checkpoint that is not here, without asking
    #[arg(long)]
    yes: bool,
    /// An adapter (LoRA) to merge into the source, by a factor if one is given: a folder that peft wrote or a GGUF file
    #[arg(long, value_name = "ADAPTER[:SCALE]")]
    lora: Vec<String>,
    /// The source is an adapter for this model: write it as a GGUF file for --lora, in F32 unless --format says F16 or BF16
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["lora", "bits"])]
    base: Option<PathBuf>,
    #[command(flatten)]
    how: Conversion,
}

impl Command for Convert {
    fn run(self) -> Result<()> {
        let how = &self.how;
        if let Some(base) = &self.base {
            return self.adapter(base);
        }
        let recipe = how.recipe()?;
        let src = models::resolve_source(&self.src, self.yes)?;
        let out = self.output.clone().map_or_else(|| default_output(&src, &how.level(&recipe)), Ok)?;
        let listener = interrupt::listen_to_all();
        let adapters = self.lora.iter().map(|text| adapter(text)).collect::<Result<_>>()?;
        let options = Options { adapters, ..how.options(recipe, &listener)? };
        let progress = Bar::new(how.quiet);
        let report = moewe_convert::convert(&src, &out, &options, &progress);
        progress.clear();
        let report = report?;
        if how.json {
            conversion::warn(&report);
            return output::json(&json!({ "path": out.display().to_string(), "report": report }));
        }
        how.print(&out, &report)?;
        if !how.quiet {
            conversion::note_budget(recipe, &report);
        }
        Ok(())
    }
}

impl Convert {
    /// The source as an adapter's file.
    fn adapter(&self, base: &Path) -> Result<()> {
        let how = &self.how;
        let name = how.format.as_deref().unwrap_or("F32");
        let format =
            Format::by_name(name).with_context(|| format!("--format {name}: no format is called so"))?;
        let base = models::resolve_source(base, self.yes)?;
        let out = self.output.clone().map_or_else(|| default_output(&self.src, format.name), Ok)?;
        let existing = if how.force { Existing::Replace } else { Existing::Keep };
        let written = convert_adapter(&self.src, &base, &out, format, existing)?;
        if how.json {
            return output::json(&json!({ "path": out.display().to_string(), "adapter": written }));
        }
        written.notes.iter().for_each(|line| output::note(format!("note: {line}")));
        output::print(format!(
            "{}: an adapter for {}, {} matrices, {} parameters, {}",
            out.display(),
            written.architecture,
            written.matrices,
            output::count(written.weights),
            output::bytes(written.bytes)
        ))
    }
}

fn adapter(text: &str) -> Result<Named> {
    let (path, scale) = scaled(text);
    match scale.is_finite() {
        true => Ok(Named { path: PathBuf::from(path), scale: f64::from(scale) }),
        false => bail!("--lora {text}: the factor is no number"),
    }
}

/// The source's own name beside us: `./olmoe-Q8_0.gguf`.
fn default_output(src: &Path, level: &str) -> Result<PathBuf> {
    src.canonicalize().with_context(|| format!("{}: cannot open", src.display()))?;
    let stem = moewe_convert::model_name(src).unwrap_or_else(|| "model".into());
    Ok(PathBuf::from(format!("{stem}-{level}.gguf")))
}
