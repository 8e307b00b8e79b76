//! `moewe chat`: a conversation with a model, at a terminal or through pipes.
//!
//! This file is the loop; `chat/` has the conversation, the model's side, the commands and the input. Answers go to
//! stdout, thoughts and everything else to stderr.

mod commands;
mod confirm;
mod conversation;
mod input;
mod partner;

use super::Command;
use super::grammar::GrammarOptions;
use super::options::ModelOptions;
use super::output::{self, note};
use super::prompt::{PromptOptions, Think};
use super::sampling::SamplingOptions;
use super::screen::Screen;
use anyhow::{Result, bail};
use clap::Parser;
use commands::Next;
use conversation::Conversation;
use input::Input;
use moewe_engine::Error;
use moewe_engine::generate::Ending;
use moewe_engine::os::{interrupt, terminal};
use partner::{Answered, Partner};
use serde_json::json;
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
    prompting: PromptOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    grammar: GrammarOptions,
    /// Without a model, continue texts with the one in the program instead of answering with it
    #[arg(long, conflicts_with = "lora")]
    base: bool,
    /// Print each answer as JSON on a line of its own
    #[arg(long, help_heading = "Options")]
    json: bool,
}

impl Command for Chat {
    fn run(self) -> Result<()> {
        let engine = self.model.open_to_talk(&self.model.place()?, self.model.options()?, self.base)?;
        let (sampling, prompting) = (self.sampling.clone(), self.prompting.clone());
        let constraint = self.grammar.constraint(&engine)?;
        let partner = Partner::new(&engine, sampling, prompting, constraint, self.model.quiet)?;
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
        commands::say_if_open(&conversation);
        let is_interactive = input::is_interactive();
        if is_interactive && !self.model.quiet {
            note("/help lists commands; Ctrl-C stops an answer, Ctrl-D leaves");
        }
        let (quiet, json) = (self.model.quiet, self.json);
        Talk { partner, conversation, is_interactive, quiet, json, has_failed: false }.run()
    }
}

/// A chat under way.
struct Talk<'e> {
    partner: Partner<'e>,
    conversation: Conversation,
    is_interactive: bool,
    quiet: bool,
    json: bool,
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
        if self.conversation.is_open() && !is_base {
            note("this goes with the question that had no answer yet");
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
        let mut screen = Screen::new(self.partner.think() == Think::Show, self.partner.has_template());
        let is_silent = self.json;
        let show = |piece: &_| if is_silent { Ok(()) } else { screen.show(piece) };
        let answered = self.partner.answer(&mut self.conversation, &listener, show);
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
            let turns =
                if answered.left == 1 { "turn".into() } else { output::counted(answered.left, "turn") };
            note(format!("the context is full: the oldest {turns} left the model's view"));
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
        let latest = self.conversation.latest();
        let (text, reasoning) =
            latest.map(|turn| (turn.answer.as_deref(), turn.reasoning.as_deref())).unzip();
        let (text, reasoning) = (text.flatten(), reasoning.flatten());
        if self.json {
            let line = json!({
                "text": text,
                "reasoning": reasoning,
                "tokens": figures.generated,
                "prompt_tokens": figures.prompt,
                "ending": answered.ending.name(),
                "prefill_tokens_per_second": figures.prefill_tokens_per_second(),
                "decode_tokens_per_second": figures.decode_tokens_per_second(),
            });
            output::print(line)?;
        }
        if text.is_some_and(str::is_empty) && reasoning.is_some() {
            note("all of it was thought, the answer had not begun");
        }
        if !self.quiet {
            let tokens = output::counted(figures.generated, "token");
            let line = format!("{tokens}, {:.1} tokens/s", figures.decode_tokens_per_second());
            note(output::dim(&line));
        }
        Ok(())
    }
}
