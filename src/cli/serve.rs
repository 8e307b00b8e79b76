//! `moewe serve`: its flags. The work is the room `server`'s.

use super::Command;
use super::options::ModelOptions;
use super::output;
use super::prompt::PromptOptions;
use super::sampling::SamplingOptions;
use super::{folders, pull};
use crate::server::{Address, Limits, Pulls, Server, Settings};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_engine::os::interrupt;
use moewe_engine::sampler::Sampling;
use moewe_engine::session::Options;
use std::env;
use std::fs;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SHORTEST_KEY: usize = 16;
const USUAL_PORT: u16 = 8080;
const OLLAMA_PORT: u16 = 11434;

/// Serve a model over HTTP to many conversations at once, for clients of OpenAI, Anthropic, Ollama and llama-server.
#[derive(Parser)]
#[command(name = "serve")]
pub(super) struct Serve {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    prompting: PromptOptions,
    /// Without a model, serve the one in the program as it was trained: it continues texts instead of answering
    #[arg(long, conflicts_with = "lora")]
    base: bool,
    /// Address to listen on, or a path with a slash for a Unix socket; others than this machine's own want a key
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", help_heading = "Serving")]
    host: String,
    /// Port to listen on; 0 takes any that is free, which is printed [default: 8080]
    #[arg(long, value_name = "N", help_heading = "Serving")]
    port: Option<u16>,
    /// Listen where Ollama's clients look, on port 11434
    #[arg(long, conflicts_with = "port", help_heading = "Serving")]
    ollama: bool,
    /// The version that Ollama's clients are told, by which some decide what to ask for
    #[arg(long, value_name = "VERSION", default_value = "0.14.0", help_heading = "Serving")]
    ollama_version: String,
    /// Let clients pull models onto this machine, by /api/pull
    #[arg(long, help_heading = "Serving")]
    allow_pull: bool,
    /// Conversations that are computed at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Serving")]
    parallel: u16,
    /// Requests that may wait besides
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(0..=4096), help_heading = "Serving")]
    queue: u16,
    /// How the model is called; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Serving")]
    alias: Vec<String>,
    /// Refuse requests for models of other names
    #[arg(long, help_heading = "Serving")]
    strict_model: bool,
    /// What clients have to show; may be repeated [default: $MOEWE_API_KEY]
    #[arg(long, value_name = "KEY", help_heading = "Serving")]
    api_key: Vec<String>,
    /// Read such keys from this file, one a line
    #[arg(long, value_name = "FILE", help_heading = "Serving")]
    api_key_file: Option<PathBuf>,
    /// Let pages of this origin ask, such as `https://app.example`; may be repeated
    #[arg(long, value_name = "ORIGIN", help_heading = "Serving")]
    allow_origin: Vec<String>,
    /// Go by this name as well, where a proxy or a name server calls this machine so; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Serving")]
    allow_host: Vec<String>,
    /// Listen to other machines without a key
    #[arg(long, help_heading = "Serving")]
    insecure: bool,
    /// Show /metrics without a key
    #[arg(long, help_heading = "Serving")]
    metrics_without_key: bool,
    /// Show browsers no page at `/`
    #[arg(long, help_heading = "Serving")]
    no_page: bool,
    /// How long a request may wait: 600s, 5m, or none
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = time, help_heading = "Serving")]
    timeout_queue: Time,
    /// How long an answer may take in all
    #[arg(long, value_name = "TIME", default_value = "none", value_parser = time, help_heading = "Serving")]
    timeout_request: Time,
    /// How long answers go on after the signal to end
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time, help_heading = "Serving")]
    grace: Time,
    /// Most bytes of a request
    #[arg(long, value_name = "AMOUNT", default_value = "16M", value_parser = amount, help_heading = "Serving")]
    max_body: usize,
    /// Most tokens of an answer, whatever a request says
    #[arg(long, value_name = "N", help_heading = "Serving")]
    max_tokens_limit: Option<usize>,
    /// About how long an answer may pause for a piece of another's prompt
    #[arg(long, value_name = "TIME", default_value = "600ms", value_parser = time, help_heading = "Serving")]
    pause: Time,
    /// The share of time that prompts get while others answer
    #[arg(long, value_name = "P", default_value_t = 0.75, help_heading = "Serving")]
    prefill_share: f64,
    /// Give the same answers to the bit, whatever was cached; beginnings are shared by whole pages then
    #[arg(long, help_heading = "Serving")]
    exact: bool,
}

/// A time, or none.
#[derive(Clone, Copy)]
struct Time(Option<Duration>);

impl Command for Serve {
    fn run(self) -> Result<()> {
        let keys = self.keys()?;
        if !(0.0..=1.0).contains(&self.prefill_share) {
            bail!("--prefill-share is from 0 to 1");
        }
        let place = self.model.place()?;
        let address = Address { host: self.host.clone(), port: self.port(), insecure: self.insecure };
        let settings = Settings { pulls: self.pulls()?, ..self.settings(keys) };
        let listener = interrupt::listen_to_all();
        let server = Server::start(&address, settings)?;
        output::note(format!("listening on {}", server.name()));
        let options = Options { sequences: Some(self.parallel.into()), ..self.model.options()? };
        let engine = self.model.open_to_talk(&place, options, self.base)?;
        let recommended = Sampling::from_metadata(engine.metadata());
        let sampling = self.sampling.for_vocabulary(recommended, engine.config().vocab_size)?;
        let dialect = self.prompting.dialect(engine.metadata(), engine.tokenizer()?)?;
        server.serve(engine, sampling, dialect, &listener.flag())
    }
}

impl Serve {
    fn port(&self) -> u16 {
        self.port.unwrap_or(if self.ollama { OLLAMA_PORT } else { USUAL_PORT })
    }

    fn settings(&self, keys: Vec<String>) -> Settings {
        Settings {
            limits: Limits {
                parallel: self.parallel.into(),
                pause: self.pause.0.unwrap_or(Duration::MAX),
                prefill_share: self.prefill_share,
                exact: self.exact,
            },
            queue: self.queue.into(),
            queue_timeout: self.timeout_queue.0,
            request_timeout: self.timeout_request.0,
            max_body: self.max_body,
            tokens_limit: self.max_tokens_limit.or(self.sampling.limit()),
            grace: self.grace.0.unwrap_or(Duration::MAX),
            aliases: self.alias.clone(),
            strict_model: self.strict_model,
            keys,
            origins: self.allow_origin.clone(),
            hosts: self.allow_host.clone(),
            metrics_are_open: self.metrics_without_key,
            ollama_version: self.ollama_version.clone(),
            pulls: None,
            page: !self.no_page,
        }
    }

    /// Where clients may pull models to.
    fn pulls(&self) -> Result<Option<Pulls>> {
        let pulls = || Ok(Pulls::new(pull::folder_of_models()?, folders::others()));
        self.allow_pull.then(pulls).transpose()
    }

    /// What clients have to show; nothing where nobody asked for keys.
    fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(file) = &self.api_key_file {
            let text =
                fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
            let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            if lines.is_empty() {
                bail!("{}: there is no key in it", file.display());
            }
            keys.extend(lines.into_iter().map(str::to_owned));
            if is_open_to_others(file) {
                output::note(format!(
                    "{}: others may read it; chmod 600 keeps the keys secret",
                    file.display()
                ));
            }
        }
        if let (true, Ok(key)) = (keys.is_empty(), env::var("MOEWE_API_KEY")) {
            keys.push(key);
        }
        if keys.iter().any(|key| key.len() < SHORTEST_KEY) {
            bail!("an API key has at least {SHORTEST_KEY} characters, so that nobody guesses it");
        }
        Ok(keys)
    }
}

/// Whether others than its owner may read or change a file, where the system says so.
#[cfg(unix)]
fn is_open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

fn time(text: &str) -> Result<Time> {
    if text == "none" {
        return Ok(Time(None));
    }
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => bail!("expected a time such as 600ms, 10s, 5m or none"),
    };
    let number: f64 = number.parse().context("expected a time such as 600ms, 10s, 5m or none")?;
    Ok(Time(Some(
        Duration::try_from_secs_f64(number * factor).context("that is longer than anything lasts")?,
    )))
}

fn amount(text: &str) -> Result<usize> {
    match text.parse()? {
        moewe_engine::session::MemoryLimit::Bytes(bytes) => Ok(usize::try_from(bytes)?),
        _ => bail!("expected bytes, such as 16M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (arguments, port) in [
            (&["serve"][..], Some(8080)),
            (&["serve", "--ollama"], Some(11434)),
            (&["serve", "--port", "0"], Some(0)),
            (&["serve", "--port", "1234", "--ollama"], None),
        ] {
            assert_eq!(
                Serve::try_parse_from(arguments).ok().map(|serve| serve.port()),
                port,
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("600ms", Some(600)),
            ("10s", Some(10_000)),
            ("1.5m", Some(90_000)),
            ("2", Some(2000)),
            ("none", None),
        ] {
            assert_eq!(time(text).unwrap().0, milliseconds.map(Duration::from_millis), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "1e9s", "999999999999999999999h"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
