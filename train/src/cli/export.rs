//! `moewe train export`: the model of a run as other programs read it, while the training may go on.

use super::{Command, say};
use crate::Result;
use crate::trainer::{check_free, export_checkpoint};
use clap::Parser;
use std::path::PathBuf;

/// Write the model of a run in BF16, for `moewe convert` and other programs
#[derive(Parser)]
#[command(name = "export")]
pub(super) struct Export {
    /// The run's folder, or one checkpoint
    from: PathBuf,
    /// Folder for config.json, model.safetensors and the tokenizer
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// The checkpoint with the smallest validation loss, not the newest
    #[arg(long)]
    best: bool,
    /// Write over a model that stands there
    #[arg(long)]
    force: bool,
}

impl Command for Export {
    fn run(self) -> Result<()> {
        if !self.force {
            check_free(&self.out)?;
        }
        let checkpoint = export_checkpoint(&self.from, self.best, &self.out)?;
        say(&format!("{} in BF16: {}\n", checkpoint.display(), self.out.display()))
    }
}
