//! `moewe run`: one prompt, one answer. The answer goes to stdout as it is generated, thoughts and figures to stderr.

use super::grammar::{GrammarOptions, guided};
use super::options::ModelOptions;
use super::prompt::{self, PromptOptions, Think};
use super::reading::Ahead;
use super::sampling::SamplingOptions;
use super::screen::Screen;
use super::{Command, heat, output, text};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_engine::Error;
use moewe_engine::dialogue::{Dialogue, Piece};
use moewe_engine::generate::{Answer, Ending, Figures};
use moewe_engine::gguf::Metadata;
use moewe_engine::os::{interrupt, memory};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::Engine;
use moewe_engine::tokenizer::{Message, Rendered, Tokenizer};
use serde_json::json;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;

/// Answer a prompt, or continue a text.
#[derive(Parser)]
#[command(name = "run")]
pub(super) struct Run {
    #[command(flatten)]
    model: ModelOptions,
    /// The prompt; `-` reads stdin, and what is piped in stands before it
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "tokens"])]
    words: Option<String>,
    /// The prompt; `-` reads stdin, and what is piped in stands before it
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "tokens")]
    prompt: Option<String>,
    /// A file with the prompt; with a prompt besides, the file stands before it
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "tokens")]
    file: Option<PathBuf>,
    /// Token ids as the prompt, for models without a tokenizer; then the answer is ids, too
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["system", "raw"])]
    tokens: Vec<u32>,
    /// Continue the prompt as it stands, without the model's chat template; print nothing but the continuation
    #[arg(long, conflicts_with_all = ["chat_template", "template_var"])]
    raw: bool,
    /// What the model should know before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    #[command(flatten)]
    prompting: PromptOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    grammar: GrammarOptions,
    /// Print the prompt as the model gets it, and nothing else
    #[arg(long, help_heading = "Options", conflicts_with = "tokens")]
    show_prompt: bool,
    /// Print the answer and its figures as JSON at the end
    #[arg(long, help_heading = "Options")]
    json: bool,
}

impl Command for Run {
    fn run(self) -> Result<()> {
        let place = self.model.place()?;
        let text = self.text()?;
        if self.show_prompt {
            let gguf = place.open()?;
            let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
            let tokenizer = tokenizer.with_context(|| format!("{place}: this file has no tokenizer"))?;
            return self.print_prompt(gguf.metadata(), &tokenizer, &text.unwrap_or_default());
        }
        let engine = self.model.open_place(&place, self.model.options()?)?;
        let prompt = self.prompt(&engine, text.as_deref())?;
        let recommended = Sampling::from_metadata(engine.metadata());
        let vocab_size = engine.config().vocab_size;
        let mut sampler = Sampler::new(self.sampling.for_vocabulary(recommended, vocab_size)?, vocab_size)?;
        let seed = sampler.seed();
        let constraint = self.grammar.constraint(&engine)?;
        let mut session = engine.session()?;
        let listener = interrupt::listen();
        session.stop_on(listener.flag());
        let ahead = Ahead::read(&mut session, &prompt.tokens, self.model.quiet)?;
        let reader = prompt.dialogue.reader(prompt.rendered.text(), self.prompting.stops(), None);
        let limit = self.sampling.limit();
        let guided = guided(reader, constraint.as_ref());
        let mut answer = Answer::start(&mut session, &mut sampler, &prompt.tokens, limit, guided)?;
        self.show(&engine, &mut answer)?;
        self.report(&engine, &answer, ahead.added_to(answer.figures()), seed)?;
        match answer.ending() {
            Some(Ending::Stopped) => Err(Error::Stopped.into()),
            _ => Ok(()),
        }
    }
}

/// What the model is to continue, and how to read what it says.
struct Prompt {
    rendered: Rendered,
    tokens: Vec<u32>,
    dialogue: Dialogue,
}

impl Run {
    /// The prompt's text, unless it is given as tokens: a file or what is piped in, then what is said about it.
    fn text(&self) -> Result<Option<String>> {
        let given = self.words.as_deref().or(self.prompt.as_deref());
        if !self.tokens.is_empty() {
            return Ok(None);
        }
        let said = given.filter(|text| *text != "-");
        let before = match &self.file {
            Some(file) => Some(text::read(file)?),
            None if said.is_some() => text::piped()?,
            None if stdin().is_terminal() && given.is_none() => {
                bail!("no prompt given: use --prompt TEXT, or - to read it from stdin, or `moewe chat`")
            }
            None => Some(text::stdin_or_nothing()?),
        };
        // The end of the last line belongs to the file, not to the prompt.
        let before = before.as_deref().map(text::lines);
        let before = before.as_deref().map(|text| text.strip_suffix('\n').unwrap_or(text));
        Ok(Some(match (before.filter(|text| !text.trim().is_empty()), said) {
            (Some(before), Some(said)) => format!("{before}\n\n{said}"),
            (Some(text), None) | (None, Some(text)) => text.to_owned(),
            (None, None) => before.unwrap_or_default().to_owned(),
        }))
    }

    fn prompt(&self, engine: &Engine, text: Option<&str>) -> Result<Prompt> {
        let Some(text) = text else {
            let dialogue = Dialogue::plain();
            return Ok(Prompt { rendered: Rendered::default(), tokens: self.tokens.clone(), dialogue });
        };
        self.rendered(engine.metadata(), engine.tokenizer()?, text)
    }

    fn rendered(&self, metadata: &Metadata, tokenizer: &Tokenizer, text: &str) -> Result<Prompt> {
        let template = if self.raw { None } else { self.prompting.template(metadata, tokenizer)? };
        let (rendered, tokens) = match &template {
            Some(template) if !text.trim().is_empty() => {
                let system = self.system.iter().map(|text| Message::new("system", text));
                let messages: Vec<_> = system.chain([Message::new("user", text)]).collect();
                let rendered = template.render(&messages, self.prompting.thinks(self.model.quiet))?;
                let tokens = tokenizer.encode_parts(rendered.parts())?;
                (rendered, tokens)
            }
            Some(_) => bail!("the prompt is empty"),
            None if self.system.is_some() => bail!("--system needs a model with a chat template"),
            None => (text.to_owned().into(), prompt::encode_text(tokenizer, text)?),
        };
        if tokens.is_empty() {
            bail!("the prompt is empty and this model has no token to begin a text with");
        }
        let dialogue = template.as_ref().map_or_else(Dialogue::plain, |template| template.dialogue().clone());
        Ok(Prompt { rendered, tokens, dialogue })
    }

    fn print_prompt(&self, metadata: &Metadata, tokenizer: &Tokenizer, text: &str) -> Result<()> {
        let prompt = self.rendered(metadata, tokenizer, text)?;
        let text = prompt.rendered.text();
        if self.json {
            return output::json(&json!({ "prompt": text, "tokens": prompt.tokens }));
        }
        output::print(if stdout().is_terminal() { output::harmless(text) } else { text.to_owned() })?;
        if !self.model.quiet {
            output::note(output::counted(prompt.tokens.len(), "token"));
        }
        Ok(())
    }

    /// Streams the answer to stdout, thoughts to stderr.
    fn show(&self, engine: &Engine, answer: &mut Answer<'_, '_>) -> Result<()> {
        if engine.tokenizer().is_err() || !self.tokens.is_empty() {
            return self.show_ids(answer);
        }
        let shows = self.prompting.thinks(self.model.quiet) == Think::Show;
        let mut screen = Screen::new(shows, false);
        let mut show = |pieces: Vec<Piece>| match self.json {
            true => Ok(()),
            false => pieces.iter().try_for_each(|piece| screen.show(piece)),
        };
        while let Some(pieces) = answer.next_pieces()? {
            show(pieces)?;
        }
        show(answer.flush())?;
        if !self.json && (!self.raw || stdout().is_terminal()) {
            output::print("")?;
        }
        Ok(())
    }

    /// Streams the answer's ids to stdout.
    fn show_ids(&self, answer: &mut Answer<'_, '_>) -> Result<()> {
        let mut out = stdout();
        while answer.next_pieces()?.is_some() {
            if let Some((latest, before)) = answer.tokens().split_last().filter(|_| !self.json) {
                let separator = if before.is_empty() { "" } else { "," };
                let written = write!(out, "{separator}{latest}").and_then(|()| out.flush());
                written.context("cannot write to stdout")?;
            }
        }
        answer.flush();
        if self.json { Ok(()) } else { output::print("") }
    }

    fn report(&self, engine: &Engine, answer: &Answer<'_, '_>, figures: Figures, seed: u64) -> Result<()> {
        let reader = answer.reader();
        let (prefill, decode) = (figures.prefill_tokens_per_second(), figures.decode_tokens_per_second());
        let ending = answer.ending().map_or("", Ending::name);
        if self.json {
            return output::json(&json!({
                "text": reader.answer(),
                "reasoning": Some(reader.reasoning()).filter(|text| !text.is_empty()),
                "ids": answer.tokens(),
                "tokens": figures.generated,
                "prompt_tokens": figures.prompt,
                "ending": ending,
                "seed": seed,
                "prefill_tokens_per_second": prefill,
                "decode_tokens_per_second": decode,
                "load_ms": engine.load_time().as_secs_f64() * 1e3,
                "peak_memory_bytes": memory::peak_resident(),
                "experts": engine.expert_statistics().map(|counted| heat::figures(&counted)),
            }));
        }
        if !self.model.quiet {
            let (prompt, generated) = (output::counted(figures.prompt, "token"), figures.generated);
            output::note(format!(
                "{prompt} read at {prefill:.1} tokens/s, {generated} generated at {decode:.1} tokens/s; \
                 {ending}; seed {seed}"
            ));
        }
        if reader.answer().is_empty() && !reader.reasoning().is_empty() {
            output::note("all of it was thought, the answer had not begun; --think show shows it");
        }
        Ok(())
    }
}
