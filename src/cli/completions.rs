//! `moewe completions`: the script that lets a shell complete our commands and flags. Hidden: packagers call it.

use super::{Command, tree};
use anyhow::{Context, Result};
use clap::Parser;
use clap_complete::Shell;
use std::io::{Write, stdout};

/// Print the completion script of a shell.
///
/// For example: moewe completions bash > ~/.local/share/bash-completion/completions/moewe
#[derive(Parser)]
#[command(name = "completions", hide = true)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Command for Completions {
    fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut tree(), "moewe", &mut script);
        stdout().write_all(&script).context("cannot write to stdout")
    }
}
