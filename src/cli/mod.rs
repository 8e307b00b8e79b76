//! The command line: a table of commands, and what an ending means for the exit status.
//!
//! A command is one file with its arguments (clap's derive) and its [`Command::run`], plus one line in [`COMMANDS`].
//! Results go to stdout, everything else to stderr. What a model computes is the engine's business.

mod bench;
mod catalogue;
mod chat;
mod compare;
mod completions;
mod consent;
mod conversion;
mod convert;
mod converted;
mod doctor;
mod experts;
mod folders;
mod grammar;
mod heat;
mod importance;
mod inspect;
mod list;
mod logits;
mod man;
mod merge;
mod models;
mod on_the_way;
mod options;
mod output;
mod pack;
mod perplexity;
mod progress;
mod prompt;
mod pull;
mod reading;
mod run;
mod sampling;
mod screen;
mod serve;
mod target;
mod text;
mod tokenize;
mod train;

use anyhow::Result;
use clap::{ArgMatches, Parser};
use moewe_engine::Error;
use moewe_engine::os::{fault, interrupt};
use std::io;
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

const fn entry<C: Command>() -> Entry {
    Entry { define: C::command, run: |matches| C::from_arg_matches(matches)?.run() }
}

/// All commands, in the order of `moewe --help`.
static COMMANDS: &[Entry] = &[
    entry::<run::Run>(),
    entry::<chat::Chat>(),
    entry::<serve::Serve>(),
    entry::<list::List>(),
    entry::<pull::Pull>(),
    entry::<convert::Convert>(),
    entry::<merge::Merge>(),
    entry::<pack::Pack>(),
    entry::<train::Train>(),
    entry::<inspect::Inspect>(),
    entry::<tokenize::Tokenize>(),
    entry::<logits::Logits>(),
    entry::<perplexity::Measure>(),
    entry::<compare::Compare>(),
    entry::<experts::Look>(),
    entry::<importance::Measure>(),
    entry::<bench::Bench>(),
    entry::<doctor::Doctor>(),
    entry::<completions::Completions>(),
    entry::<man::Man>(),
];

const BROKEN_PIPE: u8 = 141; // as a shell reports SIGPIPE

/// The whole command line as clap sees it.
fn tree() -> clap::Command {
    clap::Command::new("moewe")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run, convert and train Mixture-of-Experts language models on your own machine")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(COMMANDS.iter().map(|entry| (entry.define)()))
}

/// Runs the command that the process was asked for.
pub(crate) fn main() -> ExitCode {
    let matches = tree().get_matches();
    print_warnings();
    fault::explain();
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::FAILURE };
    let entry = COMMANDS.iter().find(|entry| (entry.define)().get_name() == name);
    match entry.map(|entry| (entry.run)(matches)) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => ending(&error),
        None => ExitCode::FAILURE,
    }
}

/// Shows on stderr what the libraries warn of.
fn print_warnings() {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(io::stderr);
    // Only a second subscriber can fail.
    let _ = tracing::subscriber::set_global_default(subscriber.without_time().with_target(false).finish());
}

/// Says what went wrong, in one line, and chooses the exit status.
fn ending(error: &anyhow::Error) -> ExitCode {
    let is_broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_broken_pipe) {
        return ExitCode::from(BROKEN_PIPE);
    }
    if matches!(error.downcast_ref::<Error>(), Some(Error::Stopped)) {
        output::note("stopped");
        return ExitCode::from(interrupt::status());
    }
    output::note(format!("error: {}", in_one_line(error)));
    ExitCode::FAILURE
}

/// An error and its causes, but for those that the sentence before already names.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        line if line.contains(&cause) => line.to_owned(),
        line => format!("{line}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound_and_every_command_explains_itself() {
        tree().debug_assert();
        let mut names = std::collections::HashSet::new();
        for command in tree().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            assert!(names.insert(command.get_name().to_owned()), "{} twice", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let (command, argument, help) = (command.get_name(), argument.get_id(), argument.get_help());
                assert!(help.is_some(), "{command}: {argument} has no help");
            }
        }
    }

    #[test]
    fn every_cause_is_named_once() {
        let reason = || io::Error::other("no room");
        let engine = Error::io("a", "write", reason());
        for (error, line) in [
            (anyhow::Error::from(reason()).context("cannot write"), "cannot write: no room"),
            (anyhow::Error::from(engine), "a: cannot write: no room"),
            (anyhow::anyhow!("anything"), "anything"),
        ] {
            assert_eq!(in_one_line(&error), line);
        }
    }

    #[test]
    fn endings_have_their_status() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        for (error, status) in [
            (anyhow::Error::from(pipe).context("cannot write"), BROKEN_PIPE),
            (anyhow::Error::from(Error::Stopped), 130),
            (anyhow::anyhow!("anything"), 1),
        ] {
            assert_eq!(ending(&error), ExitCode::from(status), "{error}");
        }
    }
}
