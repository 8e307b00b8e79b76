//! The command line of the trainer: what a person types, and what an ending means for the exit status.
//!
//! A subcommand is one file with its arguments (clap's derive) and its `Command::run`, plus one line in `COMMANDS`.

mod shards;
mod tokenizer;
mod watch;

use crate::Result;
use clap::{ArgMatches, Parser};
use std::process::ExitCode;

/// A subcommand: its arguments, and what it does with them.
trait Command: Parser {
    fn run(self) -> Result<()>;
}

/// One row of the table.
struct Entry {
    define: fn() -> clap::Command,
    run: fn(&ArgMatches) -> Result<()>,
}

/// A row for the command `C`.
const fn entry<C: Command>() -> Entry {
    Entry {
        define: C::command,
        run: |matches| C::from_arg_matches(matches).map_err(|e| crate::Error::request(e.to_string()))?.run(),
    }
}

/// All subcommands, in the order of `--help`.
static COMMANDS: &[Entry] = &[entry::<tokenizer::TrainTokenizer>(), entry::<shards::Shards>()];

fn tree() -> clap::Command {
    clap::Command::new("moewe-train")
        .bin_name("moewe train")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Pretrain a Mixture-of-Experts language model, from text to checkpoint")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(COMMANDS.iter().map(|entry| (entry.define)()))
}

/// Runs the command that the process was asked for.
pub fn main() -> ExitCode {
    let matches = tree().get_matches();
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::FAILURE };
    let entry = COMMANDS.iter().find(|entry| (entry.define)().get_name() == name);
    match entry.map(|entry| (entry.run)(matches)) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => ending(&error),
        None => ExitCode::FAILURE,
    }
}

/// Says what went wrong, in one line, and chooses the exit status.
fn ending(error: &crate::Error) -> ExitCode {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {error}\n"));
    ExitCode::FAILURE
}
