//! `moewe train`: becomes the program `moewe-train`, which is built on its own because it is large.
//!
//! It must not stay as a parent: systemd, job schedulers and `docker stop` signal the main process, and a trainer that
//! they cannot reach goes on as an orphan or loses its last checkpoint.

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
        let error = replaced_by(process::Command::new(&path).args(&self.arguments));
        Err(error).with_context(|| format!("cannot run {}", path.display()))
    }
}

/// Ends this process as `command`: the same process id, so signals reach it and its status is ours. Returns only
/// why that failed.
#[cfg(unix)]
fn replaced_by(command: &mut process::Command) -> std::io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

/// Runs `command` and ends with its status, where a process cannot become another. Both are in one console group, so
/// Ctrl-C and a closing console reach `command` without our help; this process takes them as well, and waits until
/// `command` has saved what it has to.
#[cfg(not(unix))]
fn replaced_by(command: &mut process::Command) -> std::io::Error {
    let _listener = moewe_engine::os::interrupt::listen_to_all();
    match command.status() {
        Ok(status) => process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
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
