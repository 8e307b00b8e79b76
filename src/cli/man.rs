//! `moewe man`: the manual, one page per command. Hidden: packagers call it.

use super::{Command, tree};
use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;

/// Write the manual pages into a folder.
#[derive(Parser)]
#[command(name = "man", hide = true)]
pub(super) struct Man {
    /// Where moewe.1, moewe-run.1 and the others go
    folder: PathBuf,
}

impl Command for Man {
    fn run(self) -> Result<()> {
        let failed = || format!("{}: cannot write the manual", self.folder.display());
        std::fs::create_dir_all(&self.folder).with_context(failed)?;
        // clap's own `help` command would get pages for every command a second time.
        let pages = tree().disable_help_subcommand(true);
        clap_mangen::generate_to(pages, &self.folder).with_context(failed)
    }
}
