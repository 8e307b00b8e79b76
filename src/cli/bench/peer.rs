//! `moewe bench --peer CMD`: this program and llama-bench of llama.cpp or one of its relatives in turns, because speed on
//! a shared machine changes from minute to minute and only neighbours can be compared.

use super::super::models::Place;
use super::super::output::{self, Table};
use super::{Bench, median};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// Tokens per second in one turn.
#[derive(Clone, Copy, Default)]
struct Speed {
    prefill: Option<f64>,
    decode: Option<f64>,
}

pub(super) fn run(bench: &Bench) -> Result<()> {
    let Place::File(file) = bench.model.place()? else { bail!("a peer needs a model in a file: name one") };
    let mut turns = vec![Vec::new(); bench.peer.len() + 1];
    for turn in 1..=bench.repetitions {
        turns[0].push(own()?);
        for (command, speeds) in bench.peer.iter().zip(&mut turns[1..]) {
            speeds.push(peer(bench, command, &file)?);
        }
        output::note(format!("turn {turn} of {}", bench.repetitions));
    }
    let names = std::iter::once("moewe").chain(bench.peer.iter().map(String::as_str));
    let rows: Vec<Value> = names.zip(&turns).map(|(name, speeds)| row(name, &turns[0], speeds)).collect();
    if bench.json { output::json(&rows) } else { print(&rows) }
}

/// Medians, and the median of the ratios within a turn.
fn row(name: &str, own: &[Speed], speeds: &[Speed]) -> Value {
    let all =
        |pick: fn(&Speed) -> Option<f64>| speeds.iter().map(pick).collect::<Option<Vec<_>>>().map(median);
    let ratio = |pick: fn(&Speed) -> Option<f64>| {
        let pairs = own.iter().zip(speeds).map(|(own, other)| Some(pick(own)? / pick(other)?));
        pairs.collect::<Option<Vec<_>>>().map(median)
    };
    json!({
        "program": name,
        "prefill_tokens_per_second": all(|speed| speed.prefill),
        "decode_tokens_per_second": all(|speed| speed.decode),
        "prefill_ratio": ratio(|speed| speed.prefill),
        "decode_ratio": ratio(|speed| speed.decode),
    })
}

/// This program, as a process of its own like the others.
fn own() -> Result<Speed> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    let mut skip = false;
    // The same flags, but for those that are about peers.
    for argument in std::env::args_os().skip(1) {
        let text = argument.to_string_lossy();
        let is_peer = text == "--peer";
        if !skip && !is_peer && !text.starts_with("--peer=") && text != "--json" {
            command.arg(&argument);
        }
        skip = is_peer;
    }
    let figures = figures(command.arg("--json"), "this program")?;
    let figure = |name: &str| figures[name].as_f64();
    Ok(Speed { prefill: figure("prefill_tokens_per_second"), decode: figure("decode_tokens_per_second") })
}

/// A llama-bench, whose command may have options and quotes.
fn peer(bench: &Bench, command: &str, file: &Path) -> Result<Speed> {
    let threads = bench.model.options()?.hardware().0.to_string();
    let (prompt, generate) = (bench.prompt.to_string(), bench.generate.to_string());
    let mut program = taken_apart(command);
    program.arg("-m").arg(file);
    program.args(["-t", &threads, "-p", &prompt, "-n", &generate, "-r", "1", "-o", "json"]);
    let tests = figures(&mut program, command)?;
    let tests = tests.as_array().with_context(|| format!("`{command}` printed no list of tests"))?;
    let speed = |prompt: bool| {
        let is_wanted = |test: &&Value| (test["n_prompt"].as_u64() > Some(0)) == prompt;
        tests.iter().find(is_wanted).and_then(|test| test["avg_ts"].as_f64())
    };
    Ok(Speed { prefill: speed(true), decode: speed(false) })
}

/// A command to which arguments can be added: the shell takes it apart.
#[cfg(not(windows))]
fn taken_apart(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{command} \"$@\""), "sh"]);
    shell
}

/// The same, where programs take their options apart themselves and backslashes stand in paths.
#[cfg(windows)]
fn taken_apart(command: &str) -> Command {
    use std::os::windows::process::CommandExt;
    let (program, options) = program_and_options(command);
    let mut command = Command::new(program);
    command.raw_arg(options);
    command
}

/// The program in front of a command, which has quotes where its path has spaces, and what follows.
#[cfg(any(windows, test))]
fn program_and_options(command: &str) -> (&str, &str) {
    let command = command.trim();
    match command.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((program, options)) => (program, options.trim_start()),
        None => command.split_once(char::is_whitespace).unwrap_or((command, "")),
    }
}

/// The JSON that a command prints.
fn figures(command: &mut Command, name: &str) -> Result<Value> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{name}`"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` failed ({}): {}", output.status, errors.trim().lines().last().unwrap_or_default());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{name}` did not print JSON"))
}

fn print(rows: &[Value]) -> Result<()> {
    let heading = ["PROGRAM", "PREFILL tok/s", "DECODE tok/s", "MOEWE / IT: PREFILL", "DECODE"];
    let mut table = Table::new(&heading, &[1, 2, 3, 4]);
    for row in rows {
        let figure =
            |name: &str| row[name].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let names =
            ["prefill_tokens_per_second", "decode_tokens_per_second", "prefill_ratio", "decode_ratio"];
        let program = row["program"].as_str().unwrap_or_default().to_owned();
        table.row(std::iter::once(program).chain(names.map(figure)));
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_windows_keeps_its_backslashes() {
        for (command, program, options) in [
            (r"C:\x\llama-bench.exe", r"C:\x\llama-bench.exe", ""),
            (r"..\bench.exe -fa 1 -ngl 0", r"..\bench.exe", "-fa 1 -ngl 0"),
            (r#""C:\Program Files\b.exe"  -o "a b""#, r"C:\Program Files\b.exe", r#"-o "a b""#),
            (r#" "open"#, r#""open"#, ""),
        ] {
            assert_eq!(program_and_options(command), (program, options), "{command}");
        }
    }
}
