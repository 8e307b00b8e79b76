//! A person at a terminal: `moewe chat` in a real pseudo-terminal, keys in and screen out.

#![cfg(unix)]

mod support;

use rexpect::session::{PtySession, spawn_command};
use std::path::Path;
use std::process::Command;
use support::Tiny;

const CTRL_C: char = 'c';
const CTRL_D: char = 'd';
const WAIT_MS: u64 = 60_000; // a loaded machine is slow, a test that fails waits that long

fn chat(folder: &Path, more: &[&str]) -> PtySession {
    let model = folder.join("tiny.gguf");
    if !model.exists() {
        Tiny { context_length: 1 << 20, ..Tiny::default() }.write(&model);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_moewe"));
    command.args(["chat", "--context", "500000", "--seed", "5"]).args(more).arg(&model);
    command.env("HOME", folder).env_remove("XDG_STATE_HOME").env("TERM", "xterm").env("NO_COLOR", "1");
    let mut session = spawn_command(command, Some(WAIT_MS)).unwrap();
    session.exp_string("/help lists commands").unwrap();
    session
}

/// Waits for the line editor (it switches bracketed paste on), since keys typed before it listens may be lost.
fn wait_for_prompt(session: &mut PtySession) {
    session.exp_string("\u{1b}[?2004h").unwrap();
}

fn say(session: &mut PtySession, line: &str) {
    wait_for_prompt(session);
    session.send_line(line).unwrap();
}

fn press(session: &mut PtySession, control: char) {
    wait_for_prompt(session);
    session.send_control(control).unwrap();
}

fn expect_tokens(session: &mut PtySession, count: usize) {
    session.exp_regex(&format!("[^0-9]{count} tokens, [0-9.]+ tokens/s")).unwrap();
}

/// The numbers in the line about the prompt.
fn prompt_figures(session: &mut PtySession) -> Vec<usize> {
    say(session, "/stats");
    session.exp_string("prompt  ").unwrap();
    let line = session.exp_string(" tokens/s").unwrap();
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn a_conversation() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = chat(folder.path(), &["-n", "12"]);
    say(&mut session, "hello");
    expect_tokens(&mut session, 12);
    assert_eq!(prompt_figures(&mut session)[..3], [24, 0, 24]);
    say(&mut session, "again");
    expect_tokens(&mut session, 12);
    // Of the first answer all but the last token was computed while it was generated.
    let (all, reused, computed) = (24 + 12 + 2 + 24, 24 + 11, 24 + 3);
    assert_eq!(prompt_figures(&mut session)[..3], [all, reused, computed], "only what is new is computed");
    say(&mut session, "/undo");
    session.exp_string("taken back: again").unwrap();
    // The tabulator completes.
    wait_for_prompt(&mut session);
    session.send("/sy\t").unwrap();
    session.send_line(" be brief").unwrap();
    say(&mut session, "/system");
    session.exp_string("\nbe brief").unwrap();
    say(&mut session, "two \\");
    session.send_line("lines").unwrap();
    expect_tokens(&mut session, 12);
    say(&mut session, "/quit");
    session.exp_eof().unwrap();
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = chat(folder.path(), &[]);
    say(&mut session, "tell me everything");
    // Without a limit the tiny model babbles for half a million tokens.
    session.exp_regex("[a-z ]{200}").unwrap();
    // Keys typed meanwhile do not show in the answer; Ctrl-C discards them, as everywhere.
    session.send("/SET").unwrap();
    session.flush().unwrap();
    let (_, meanwhile) = session.exp_regex("[a-z ]{1000}").unwrap();
    assert!(!meanwhile.contains("SET"));
    session.send_control(CTRL_C).unwrap();
    let answer = session.exp_string("stopped").unwrap();
    assert!(!answer.contains("SET"), "{answer}");
    say(&mut session, "/set n 5");
    say(&mut session, "still there?");
    expect_tokens(&mut session, 5);
    // It empties a line, and at an empty one it needs two.
    wait_for_prompt(&mut session);
    session.send("/undo this").unwrap();
    session.flush().unwrap();
    session.exp_string("/undo this").unwrap();
    session.send_control(CTRL_C).unwrap();
    session.send_line("/stats").unwrap();
    session.exp_string("conversation  2 turns").unwrap();
    press(&mut session, CTRL_C);
    session.exp_string("again to leave").unwrap();
    press(&mut session, CTRL_C);
    session.exp_eof().unwrap();
}

#[test]
fn a_long_prompt_shows_how_far_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    Tiny { context_length: 1 << 20, ..Tiny::default() }.write(&model);
    let prompt = folder.path().join("long.txt");
    std::fs::write(&prompt, "a long text ".repeat(20_000)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_moewe"));
    command.args(["run", "--context", "500000", "--batch", "64", "-n", "3", "-f"]).args([&prompt, &model]);
    command.env("HOME", folder.path()).env("TERM", "xterm").env("NO_COLOR", "1");
    let mut session = spawn_command(command, Some(WAIT_MS)).unwrap();
    session.exp_regex("[0-9,]+ of 240,0[0-9]+ tokens read, [0-9.]+ tokens/s; Ctrl-C stops").unwrap();
    session.send_control(CTRL_C).unwrap();
    session.exp_string("stopped").unwrap();
    session.exp_eof().unwrap();
}

#[test]
fn history_survives_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = chat(folder.path(), &["-n", "3"]);
    say(&mut session, "unforgettable words");
    expect_tokens(&mut session, 3);
    press(&mut session, CTRL_D);
    session.exp_eof().unwrap();
    let mut session = chat(folder.path(), &["-n", "3"]);
    wait_for_prompt(&mut session);
    session.send("\u{1b}[A").unwrap(); // arrow up
    session.flush().unwrap();
    session.exp_string("unforgettable words").unwrap();
    session.send_line("").unwrap();
    expect_tokens(&mut session, 3);
    say(&mut session, "/q");
    session.exp_eof().unwrap();
}

#[test]
fn saving_over_a_file_asks() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.json");
    std::fs::write(&old, "old").unwrap();
    let mut session = chat(folder.path(), &["-n", "3"]);
    let save = format!("/save {}", old.display());
    for (answer, expected) in [("n", "nothing is saved"), ("", "nothing is saved"), ("y", "0 turns written")]
    {
        say(&mut session, &save);
        session.exp_string("exists; replace it? [y/N]").unwrap();
        session.send_line(answer).unwrap();
        session.exp_string(expected).unwrap();
        assert_eq!(std::fs::read(&old).unwrap() == b"old", answer != "y", "{answer:?}");
    }
    say(&mut session, &save);
    session.exp_string("exists; replace it? [y/N]").unwrap();
    session.send_control(CTRL_C).unwrap();
    session.exp_string("nothing is saved").unwrap();
    say(&mut session, "/quit");
    session.exp_eof().unwrap();
}
