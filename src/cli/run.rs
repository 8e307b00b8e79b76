//! `moewe run`: one prompt, one answer. The answer goes to stdout as it is generated, figures to stderr.

use super::options::ModelOptions;
use super::sampling::SamplingOptions;
use super::{Command, heat, output, prompt, text};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_engine::Error;
use moewe_engine::generate::{Answer, Ending};
use moewe_engine::os::{interrupt, memory};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::Engine;
use moewe_engine::tokenizer::Message;
use serde_json::json;
use std::io::{IsTerminal, Write, stdin, stdout};

/// Answer a prompt, or continue a text.
#[derive(Parser)]
#[command(name = "run")]
pub(super) struct Run {
    #[command(flatten)]
    model: ModelOptions,
    /// The prompt; `-` reads stdin
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "tokens"])]
    words: Option<String>,
    /// The prompt; `-` reads stdin
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Token ids as the prompt, for models without a tokenizer; then the answer is ids, too
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["system", "raw"])]
    tokens: Vec<u32>,
    /// Continue the prompt as it stands, without the model's chat template; print nothing but the continuation
    #[arg(long)]
    raw: bool,
    /// What the model should know before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Print the answer and its figures as JSON at the end
    #[arg(long, help_heading = "Options")]
    json: bool,
}

impl Command for Run {
    fn run(self) -> Result<()> {
        self.model.place()?;
        let text = self.text()?;
        let engine = self.model.open()?;
        let tokens = self.prompt_tokens(&engine, text.as_deref())?;
        let sampling = self.sampling.over(Sampling::from_metadata(engine.metadata()));
        let mut sampler = Sampler::new(sampling, engine.config().vocab_size)?;
        let seed = sampler.seed();
        let mut session = engine.session()?;
        let listener = interrupt::listen();
        session.stop_on(listener.flag());
        let mut generation = Answer::start(&mut session, &mut sampler, &tokens, self.sampling.limit)?;
        let answer = self.show(&engine, &mut generation)?;
        self.report(&engine, &generation, &answer, seed)?;
        match generation.ending() {
            Some(Ending::Stopped) => Err(Error::Stopped.into()),
            _ => Ok(()),
        }
    }
}

impl Run {
    /// The prompt's text, unless it is given as tokens.
    fn text(&self) -> Result<Option<String>> {
        let given = self.words.as_deref().or(self.prompt.as_deref());
        match given {
            _ if !self.tokens.is_empty() => Ok(None),
            None if stdin().is_terminal() => {
                bail!("no prompt given: use --prompt TEXT, or - to read it from stdin, or `moewe chat`")
            }
            None | Some("-") => {
                let text = text::given_or_stdin(None)?;
                // The end of the last line belongs to the file, not to the prompt.
                Ok(Some(text.strip_suffix('\n').unwrap_or(&text).to_owned()))
            }
            Some(text) => Ok(Some(text.to_owned())),
        }
    }

    fn prompt_tokens(&self, engine: &Engine, text: Option<&str>) -> Result<Vec<u32>> {
        let Some(text) = text else { return Ok(self.tokens.clone()) };
        let tokenizer = engine.tokenizer()?;
        let template = if self.raw { None } else { prompt::template(engine)? };
        let tokens = match template {
            Some(template) if !text.trim().is_empty() => {
                let system = self.system.iter().map(|text| Message::new("system", text));
                let messages: Vec<_> = system.chain([Message::new("user", text)]).collect();
                prompt::encode(tokenizer, &prompt::render(tokenizer, &template, &messages)?)?
            }
            Some(_) => bail!("the prompt is empty"),
            None if self.system.is_some() => bail!("--system needs a model with a chat template"),
            None => prompt::encode_text(tokenizer, text)?,
        };
        if tokens.is_empty() {
            bail!("the prompt is empty and this model has no token to begin a text with");
        }
        Ok(tokens)
    }

    /// Streams the answer to stdout and returns it.
    fn show(&self, engine: &Engine, generation: &mut Answer<'_, '_>) -> Result<String> {
        let (mut out, mut answer) = (stdout(), String::new());
        let is_terminal = out.is_terminal();
        let has_text = engine.tokenizer().is_ok() && self.tokens.is_empty();
        loop {
            let known = generation.tokens().len();
            let Some(text) = generation.next_text()? else { break };
            let mut piece = if is_terminal { output::harmless(text) } else { text.to_owned() };
            answer.push_str(text);
            if !has_text {
                let separator = if known == 0 { "" } else { "," };
                let latest = generation.tokens().get(known);
                piece = latest.map_or(String::new(), |token| format!("{separator}{token}"));
            }
            if !self.json && !piece.is_empty() {
                out.write_all(piece.as_bytes())
                    .and_then(|()| out.flush())
                    .context("cannot write to stdout")?;
            }
        }
        if !self.json && (!self.raw || is_terminal) {
            output::print("")?;
        }
        Ok(answer)
    }

    fn report(&self, engine: &Engine, generation: &Answer<'_, '_>, answer: &str, seed: u64) -> Result<()> {
        let figures = generation.figures();
        let (prefill, decode) = (figures.prefill_tokens_per_second(), figures.decode_tokens_per_second());
        let ending = generation.ending().map_or("", Ending::name);
        if self.json {
            return output::json(&json!({
                "text": answer,
                "ids": generation.tokens(),
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
            let (prompt, generated) = (figures.prompt, figures.generated);
            output::note(format!(
                "{prompt} tokens read at {prefill:.1} tokens/s, {generated} generated at {decode:.1} tokens/s; \
                 {ending}; seed {seed}"
            ));
        }
        Ok(())
    }
}
