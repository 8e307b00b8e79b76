//! Where messages come from: a line editor on a terminal, plain lines elsewhere. Both know messages of many lines.

use super::commands::{COMMANDS, setting_names};
use crate::cli::folders;
use crate::cli::output::note;
use anyhow::{Context as _, Result};
use rustyline::completion::{Completer, FilenameCompleter};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event, EventContext, EventHandler,
    Helper, Highlighter, Hinter, KeyCode, KeyEvent, Modifiers, Movement, RepeatCount,
};
use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::path::PathBuf;

/// What a person did.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// Said something; several lines as one text.
    Message(String),
    /// Pressed Ctrl-C on an empty line.
    Interrupted,
    /// Closed the input.
    End,
}

/// A source of messages.
pub(super) trait Read {
    fn read(&mut self) -> Result<Input>;
}

/// Whether a person sits there.
pub(super) fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// The source that fits the process.
pub(super) fn open() -> Result<Box<dyn Read>> {
    if is_interactive() { Ok(Box::new(Terminal::new()?)) } else { Ok(Box::new(Lines(stdin().lock()))) }
}

const FENCE: &str = "\"\"\"";

/// Whether `text` is a whole message: no backslash at its end, and no `"""` at its beginning without a second one.
fn is_complete(text: &str) -> bool {
    let trimmed = text.trim();
    match trimmed.strip_prefix(FENCE) {
        Some(rest) => rest.ends_with(FENCE),
        None => !text.ends_with('\\'),
    }
}

/// A whole message without the marks that held its lines together.
fn unfold(text: &str) -> String {
    let trimmed = text.trim();
    let fenced = trimmed.strip_prefix(FENCE).and_then(|rest| rest.strip_suffix(FENCE));
    match fenced {
        Some(inner) => inner.trim_matches('\n').to_owned(),
        None => text.replace("\\\n", "\n"),
    }
}

/// A pipe or a file, line by line.
struct Lines<R>(R);

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self) -> Result<Input> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let count = self.0.read_until(b'\n', &mut line).context("cannot read stdin")?;
            if count == 0 {
                return Ok(if text.trim().is_empty() { Input::End } else { Input::Message(unfold(&text)) });
            }
            // The mark with which some editors begin a file.
            let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
            text.push_str(String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']));
            if is_complete(&text) {
                return Ok(Input::Message(unfold(&text)));
            }
            text.push('\n');
        }
    }
}

/// rustyline's helper: completes commands and their files, and asks for more lines.
#[derive(Helper, Highlighter, Hinter)]
struct Assistant(FilenameCompleter);

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, ctx: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        if ["/save ", "/load "].iter().any(|command| typed.starts_with(command)) {
            let (start, files) = self.0.complete(line, pos, ctx)?;
            return Ok((start, files.into_iter().map(|file| file.replacement).collect()));
        }
        if let Some(word) = typed.strip_prefix("/think ") {
            let modes = ["show", "hide", "off"].into_iter().filter(|mode| mode.starts_with(word));
            return Ok((pos - word.len(), modes.map(str::to_owned).collect()));
        }
        if let Some(settings) = typed.strip_prefix("/set ") {
            let word = settings.rsplit(' ').next().unwrap_or_default();
            let fitting = setting_names().into_iter().filter(|name| name.starts_with(word));
            return Ok((pos - word.len(), fitting.map(|name| name + " ").collect()));
        }
        let names = COMMANDS.iter().map(|command| command.name).filter(|name| name.starts_with(typed));
        Ok((0, if typed.starts_with('/') { names.map(str::to_owned).collect() } else { vec![] }))
    }
}

impl Validator for Assistant {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(ctx.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

/// Ctrl-C empties a line that holds something, and is the person's wish to leave otherwise.
struct EmptyOrLeave;

impl ConditionalEventHandler for EmptyOrLeave {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, ctx: &EventContext<'_>) -> Option<Cmd> {
        (!ctx.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

/// A line editor with history.
struct Terminal {
    editor: Editor<Assistant, FileHistory>,
    history: Option<PathBuf>, // where the history is kept
}

impl Terminal {
    fn new() -> Result<Self> {
        let config = Config::builder()
            .history_ignore_space(true)
            .max_history_size(2000)?
            .completion_type(CompletionType::List)
            .auto_add_history(false)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Assistant(FilenameCompleter::new())));
        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(Event::from(alt_enter), Cmd::Newline);
        let ctrl_c = EventHandler::Conditional(Box::new(EmptyOrLeave));
        editor.bind_sequence(Event::from(KeyEvent::ctrl('C')), ctrl_c);
        let history = folders::state().map(|folder| folder.join("history"));
        let mut terminal = Self { editor, history };
        terminal.load_history();
        Ok(terminal)
    }

    /// A history that cannot be kept is said once and is no reason not to chat.
    fn load_history(&mut self) {
        let Some(path) = &self.history else { return };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let loaded = folder.map_err(ReadlineError::from).and_then(|()| match path.exists() {
            true => self.editor.load_history(path),
            false => Ok(()),
        });
        if let Err(error) = loaded {
            note(format!("{}: no history is kept ({error})", path.display()));
            self.history = None;
        }
    }

    /// Written after every message, so that a crash loses nothing.
    fn remember(&mut self, message: &str) -> Result<()> {
        if self.editor.add_history_entry(message)?
            && let Some(path) = &self.history
            && self.editor.append_history(path).is_err()
        {
            self.history = None;
        }
        Ok(())
    }
}

impl Read for Terminal {
    fn read(&mut self) -> Result<Input> {
        match self.editor.readline("> ") {
            Ok(text) => {
                if !text.trim().is_empty() {
                    self.remember(&text)?;
                }
                Ok(Input::Message(unfold(&text)))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_many_lines() {
        let text =
            "\u{feff}one\ntwo \\\nthree\n\"\"\"\nfour\n\n five \\\n\"\"\"\n\"\"\"six\"\"\"\r\n\nseven\\";
        let mut lines = Lines(text.as_bytes());
        let mut read = || lines.read().unwrap();
        for expected in ["one", "two \nthree", "four\n\n five \\", "six", "", "seven\n"] {
            assert_eq!(read(), Input::Message(expected.into()));
        }
        assert_eq!(read(), Input::End);
    }

    #[test]
    fn commands_complete() {
        let history = FileHistory::new();
        let complete = |line: &str| {
            let context = Context::new(&history);
            Assistant(FilenameCompleter::new()).complete(line, line.len(), &context).unwrap().1
        };
        assert_eq!(complete("/re"), ["/reset", "/retry"]);
        assert_eq!(complete("/q"), ["/quit"]);
        assert_eq!(complete("/think h"), ["hide"]);
        assert_eq!(complete("/set temp 0.5 top"), ["top-k ", "top-p "]);
        assert!(complete("hello").is_empty() && complete("").is_empty());
    }
}
