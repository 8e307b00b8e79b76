//! The command line of the trainer: what a person types, and what an ending means for the exit status.
//!
//! A subcommand is one file with its arguments (clap's derive) and its `Command::run`, plus one line in `COMMANDS`.

mod bench;
mod defaults;
mod export;
mod finetune;
mod run;
mod shards;
mod spellings;
mod tokenizer;
mod tune;
mod watch;

use crate::Result;
use crate::data::corpus::{BadLines, Source};
use clap::{ArgMatches, Parser};
use std::process::ExitCode;
use std::sync::Arc;

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
static COMMANDS: &[Entry] = &[
    entry::<tokenizer::TrainTokenizer>(),
    entry::<shards::Shards>(),
    entry::<finetune::Finetune>(),
    entry::<export::Export>(),
    entry::<bench::Bench>(),
];

/// What happens without a subcommand: training itself.
static TRAIN: Entry = entry::<run::Train>();

fn tree() -> clap::Command {
    defaults::shown((TRAIN.define)())
        .name("moewe-train")
        .bin_name("moewe train")
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .arg_required_else_help(true)
        .subcommands(COMMANDS.iter().map(|entry| defaults::shown((entry.define)())))
}

/// Runs the command that the process was asked for.
pub fn main() -> ExitCode {
    let matches = tree().try_get_matches().unwrap_or_else(|error| spellings::explain(error).exit());
    print_warnings();
    let outcome = match matches.subcommand() {
        None => (TRAIN.run)(&matches),
        Some((name, matches)) => match COMMANDS.iter().find(|entry| (entry.define)().get_name() == name) {
            Some(entry) => (entry.run)(matches),
            None => return ExitCode::FAILURE,
        },
    };
    outcome.map_or_else(|error| ending(&error), |()| ExitCode::SUCCESS)
}

/// Shows on stderr what the libraries warn of.
fn print_warnings() {
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr);
    // Only a second subscriber can fail.
    let _ = tracing::subscriber::set_global_default(subscriber.without_time().with_target(false).finish());
}

/// The sources of `--data`; those of one command count bad lines together.
fn sources(data: &[String], skip_bad_lines: bool) -> Result<Vec<Source>> {
    let mut sources = Source::parse_all(data)?;
    if skip_bad_lines {
        let counter: Arc<BadLines> = Arc::default();
        sources.iter_mut().for_each(|source| source.bad_lines = Some(counter.clone()));
    }
    Ok(sources)
}

/// Says how many lines were left out.
fn tell_bad_lines(sources: &[Source]) {
    let counter = sources.first().and_then(|source| source.bad_lines.as_ref());
    if let Some((count, first)) = counter.and_then(|counter| counter.found()) {
        tracing::warn!("{count} bad lines are left out; the first: {first}");
    }
}

/// Computes with `threads` threads, or with as many as the machine has where that is 0 or fewer than asked for.
fn limit_threads(threads: usize) -> Result<()> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    if threads > most {
        tracing::warn!("--threads {threads}: this machine runs {most} at a time, so {most} are started");
    }
    if threads == 0 {
        return Ok(());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.min(most)).build_global();
    pool.map_err(|e| crate::Error::request(e.to_string()))
}

/// Prints what was asked for.
fn say(text: &str) -> Result<()> {
    let written = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    written.map_err(|e| crate::Error::io("standard output", "write", e))
}

/// Says what went wrong, in one line, and chooses the exit status.
fn ending(error: &crate::Error) -> ExitCode {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {error}\n"));
    ExitCode::FAILURE
}
