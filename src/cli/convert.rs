//! `moewe convert`: a checkpoint becomes a GGUF file. The work is the crate moewe-convert's.

use super::conversion::{self, Bar, Conversion};
use super::{Command, models, output};
use anyhow::{Context, Result};
use clap::Parser;
use moewe_engine::os::interrupt;
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
    #[command(flatten)]
    how: Conversion,
}

impl Command for Convert {
    fn run(self) -> Result<()> {
        let how = &self.how;
        let recipe = how.recipe()?;
        let src = models::resolve_source(&self.src, self.yes)?;
        let out = self.output.clone().map_or_else(|| default_output(&src, &how.level(&recipe)), Ok)?;
        let listener = interrupt::listen_to_all();
        let options = how.options(recipe, &listener)?;
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

/// The source's own name beside us: `./olmoe-Q8_0.gguf`.
fn default_output(src: &Path, level: &str) -> Result<PathBuf> {
    src.canonicalize().with_context(|| format!("{}: cannot open", src.display()))?;
    let stem = moewe_convert::model_name(src).unwrap_or_else(|| "model".into());
    Ok(PathBuf::from(format!("{stem}-{level}.gguf")))
}
