//! `moewe train`: hands everything to the program `moewe-train`, which is built on its own because it is large.

use super::Command;
use anyhow::{Context, Result, bail};
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process;

/// Pretrain a model, make tokenizers and datasets (runs moewe-train; see `moewe train --help`)
#[derive(Parser)]
#[command(name = "train", disable_help_flag = true)]
pub(super) struct Train {
    /// What moewe-train is given
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Command for Train {
    fn run(self) -> Result<()> {
        let path = program()?;
        let status = process::Command::new(&path).args(&self.arguments).status();
        let status = status.with_context(|| format!("cannot run {}", path.display()))?;
        // The program has said what went wrong; its status is ours, and a signal's is what a shell would report.
        if !status.success() {
            process::exit(status.code().unwrap_or(1));
        }
        Ok(())
    }
}

/// The program beside this one.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own folder")?;
    let path = own.with_file_name(format!("moewe-train{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        bail!("{} is missing; build it with `cargo build --release -p moewe-train`", path.display());
    }
    Ok(path)
}
