//! `moewe chat`: a conversation with a model, at a terminal or through pipes.
//!
//! This file is the loop; `chat/` has the conversation, the model's side, the commands and the input. Answers go to
//! stdout, everything else to stderr.

mod commands;
mod conversation;
mod input;
mod partner;

use super::Command;
use super::options::ModelOptions;
use super::output::{self, note};
use super::sampling::SamplingOptions;
use anyhow::{Context, Result, bail};
use clap::Parser;
use commands::Next;
use conversation::Conversation;
use input::Input;
use moewe_engine::Error;
use moewe_engine::generate::Ending;
use moewe_engine::os::{interrupt, terminal};
use partner::{Answered, Partner};
use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;

/// Chat with a model.
#[derive(Parser)]
#[command(name = "chat")]
pub(super) struct Chat {
    #[command(flatten)]
    model: ModelOptions,
    /// What the model should know beforehand
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingOptions,
}

impl Command for Chat {
    fn run(self) -> Result<()> {
        let engine = self.model.open()?;
        let partner = Partner::new(&engine, self.sampling.clone())?;
        if !partner.has_template() {
            note("this model has no chat template: it continues your text instead of answering it");
        }
        let mut conversation =
            self.load.as_deref().map_or_else(|| Ok(Conversation::default()), commands::read)?;
        if self.system.is_some() {
            if !partner.has_template() {
                bail!("--system needs a model with a chat template");
            }
            conversation.system = self.system.clone();
        }
        let is_interactive = input::is_interactive();
        if is_interactive && !self.model.quiet {
            note("/help lists commands; Ctrl-C stops an answer, Ctrl-D leaves");
        }
        Talk { partner, conversation, is_interactive, quiet: self.model.quiet, has_failed: false }.run()
    }
}

/// A chat under way.
struct Talk<'e> {
    partner: Partner<'e>,
    conversation: Conversation,
    is_interactive: bool,
    quiet: bool,
    has_failed: bool, // decides the exit status of a chat through pipes
}

impl Talk<'_> {
    fn run(mut self) -> Result<()> {
        let mut source = input::open()?;
        let mut was_interrupted = false;
        loop {
            let next = match source.read()? {
                Input::End => Next::Quit,
                Input::Interrupted if was_interrupted => Next::Quit,
                Input::Interrupted => {
                    was_interrupted = true;
                    note("press Ctrl-C again to leave");
                    continue;
                }
                Input::Message(message) => self.hear(&message)?,
            };
            was_interrupted = false;
            match next {
                Next::Read => {}
                Next::Answer => self.answer()?,
                Next::Quit if self.has_failed && !self.is_interactive => bail!("not everything went well"),
                Next::Quit => return Ok(()),
            }
        }
    }

    /// Takes a message or runs a command; what goes wrong with a command is said and the chat goes on.
    fn hear(&mut self, message: &str) -> Result<Next> {
        if commands::is_command(message) {
            return commands::run(self, message).or_else(|error| self.complain(&error).map(|()| Next::Read));
        }
        let is_base = !self.partner.has_template();
        // A base model goes on where it stopped when nothing is said.
        if message.trim().is_empty() && !(is_base && self.conversation.len() > 0) {
            return Ok(Next::Read);
        }
        self.conversation.ask(if is_base { message } else { message.trim() });
        Ok(Next::Answer)
    }

    fn complain(&mut self, error: &anyhow::Error) -> Result<()> {
        self.has_failed = true;
        note(format!("error: {error:#}"));
        Ok(())
    }

    fn answer(&mut self) -> Result<()> {
        let listener = interrupt::listen();
        let silence = self.is_interactive.then(terminal::silence);
        let mut screen = Screen::new(self.partner.has_template());
        let answered = self.partner.answer(&mut self.conversation, &listener, |text| screen.show(text));
        screen.end()?;
        drop((listener, silence));
        match answered {
            Ok(answered) => self.comment(answered),
            // A closed pipe ends the chat, anything else only this answer.
            Err(error) if error.downcast_ref::<std::io::Error>().is_some() => Err(error),
            Err(error) => {
                self.conversation.undo();
                self.complain(&error)
            }
        }
    }

    /// What there is to say about an answer.
    fn comment(&mut self, answered: Answered) -> Result<()> {
        if answered.left > 0 {
            note(format!("the context is full: the oldest {} turns left the model's view", answered.left));
        }
        let figures = answered.figures;
        match answered.ending {
            Ending::Stopped if !self.is_interactive => return Err(Error::Stopped.into()),
            Ending::Stopped if figures.generated == 0 => {
                self.conversation.undo();
                note("stopped before the answer began; the message is taken back");
                return Ok(());
            }
            Ending::Stopped => note("stopped"),
            Ending::ContextFull => note("the context is full; --context makes it larger"),
            Ending::Limit | Ending::EndOfText | Ending::StopString => {}
        }
        if !self.quiet {
            let line =
                format!("{} tokens, {:.1} tokens/s", figures.generated, figures.decode_tokens_per_second());
            note(output::dim(&line));
        }
        Ok(())
    }
}

/// An answer on its way to stdout.
struct Screen {
    is_terminal: bool,
    trims: bool, // leaves out white space before the first word
    column_is_zero: bool,
}

impl Screen {
    fn new(trims: bool) -> Self {
        Self { is_terminal: stdout().is_terminal(), trims, column_is_zero: true }
    }

    fn show(&mut self, text: &str) -> Result<()> {
        let text = if self.trims { text.trim_start() } else { text };
        let text = if self.is_terminal { output::harmless(text) } else { text.to_owned() };
        if text.is_empty() {
            return Ok(());
        }
        self.trims = false;
        self.column_is_zero = text.ends_with('\n');
        let mut out = stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
    }

    fn end(&self) -> Result<()> {
        if self.column_is_zero { Ok(()) } else { output::print("") }
    }
}
