//! `moewe pull`: its arguments and what it says. The work is the room `pull`'s.

use super::consent::{self, Usual};
use super::output::{self, Table};
use super::progress::bar;
use super::{Command, folders};
use crate::pull::{self, Kept, Kind, Limits, Plan, Puller, Remote, Report, Request, Settings, Wants};
use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::ProgressBar;
use moewe_convert::checkpoint::Checkpoint;
use moewe_engine::os::interrupt;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, stderr, stdin};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(5); // where stderr is no terminal
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// Get a model from Hugging Face, Ollama's registry, ModelScope or an address.
#[derive(Parser)]
#[command(name = "pull")]
pub(super) struct Pull {
    /// hf:OWNER/REPO, hf:OWNER/REPO:TAG, hf:OWNER/REPO/FILE.gguf, ollama:NAME:TAG, ms:OWNER/REPO or an address of a
    /// GGUF file; of several models TAG names one, such as Q4_K_M
    what: String,
    /// Put the files into this folder [default: a folder of the first model folder]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// A branch, tag or commit of the repository
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// What the file of a plain address has to be
    #[arg(long, value_name = "SHA256")]
    sha256: Option<String>,
    /// Read the access token from this file [default: $HF_TOKEN, or the token of Hugging Face's tools]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ranges of a large file that are fetched at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
    /// Only say what is on this machine
    #[arg(long)]
    offline: bool,
    /// Print what happens as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Say which files would be fetched, and fetch none
    #[arg(long)]
    dry_run: bool,
    /// Ask nothing
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    hidden: Hidden,
}

// For tests, which have small files and no time.
#[derive(clap::Args)]
struct Hidden {
    #[arg(long, hide = true, value_name = "BYTES")]
    range_size: Option<u64>,
    #[arg(long, hide = true, value_name = "BYTES")]
    parallel_from: Option<u64>,
    #[arg(long, hide = true, value_name = "MS")]
    pause: Option<u64>,
    #[arg(long, hide = true, value_name = "MS")]
    stall: Option<u64>,
}

impl Hidden {
    fn limits(&self, jobs: usize) -> Limits {
        let usual = Limits::default();
        Limits {
            jobs,
            range: self.range_size.unwrap_or(usual.range).max(1),
            parallel_from: self.parallel_from.unwrap_or(usual.parallel_from),
            pause: self.pause.map_or(usual.pause, Duration::from_millis),
            stall: self.stall.map_or(usual.stall, Duration::from_millis),
            ..usual
        }
    }
}

impl Command for Pull {
    fn run(self) -> Result<()> {
        let remote = parse(&self.what)?;
        if self.offline || folders::is_offline() {
            return self.say_what_is_here(&remote);
        }
        let listener = interrupt::listen_to_all();
        let settings = Settings {
            limits: self.hidden.limits(self.jobs.into()),
            token_file: self.token_file.clone(),
            stop: listener.flag(),
            others: folders::others(),
        };
        let models = folder_of_models()?;
        let request = Request {
            remote: &remote,
            revision: self.revision.as_deref(),
            sha256: self.sha256.as_deref(),
            wants: Wants::Model,
            models: &models,
            to: self.to.as_deref(),
        };
        let puller = Puller::new(&settings, &remote)?;
        let plan = puller.plan(&request)?;
        let shown = Shown::new(self.json);
        plan.remarks.iter().for_each(|line| shown.say(line));
        if self.dry_run {
            return self.print(&plan);
        }
        if self.to.is_none() && self.revision.is_none() && self.is_elsewhere(&remote, &plan)? {
            return Ok(());
        }
        let is_new = !plan.is_done()?;
        if is_new && plan.is_guess && !self.yes && !self.json && stdin().is_terminal() {
            ask(&plan, None)?;
        }
        let path = puller.carry_out(&plan, &shown)?;
        self.say_where(&remote, &path, is_new, plan.kind)
    }
}

impl Pull {
    fn say_what_is_here(&self, remote: &Remote) -> Result<()> {
        match pull::find(remote, &folders::models(), &folders::others(), Wants::Model) {
            Some(kept) => self.say_where(remote, &kept.path, false, Kind::Gguf),
            None => bail!("{remote} is not on this machine, and --offline (or $HF_HUB_OFFLINE) forbids more"),
        }
    }

    /// Whether another program has the model; says so.
    fn is_elsewhere(&self, remote: &Remote, plan: &Plan) -> Result<bool> {
        let kept = pull::find(remote, &[], &folders::others(), Wants::Model);
        let kept = kept.filter(|kept| kept.is_others && plan.kind == Kind::Gguf && plan.files.len() == 1);
        let size = |path: &Path| path.metadata().ok().map(|data| data.len());
        let Some(kept) = kept.filter(|kept| size(&kept.path) == plan.size()) else { return Ok(false) };
        output::note("another program has it already, and it is run from there; --to makes a copy");
        self.say_where(remote, &kept.path, false, plan.kind)?;
        Ok(true)
    }

    /// The plan as a table or as JSON.
    fn print(&self, plan: &Plan) -> Result<()> {
        let digest = |item: &Option<_>| item.as_ref().map(|digest: &_| format!("{digest}"));
        if self.json {
            let files = plan.files.iter().map(|item| {
                json!({
                    "name": item.name, "url": item.url.as_str(), "bytes": item.size,
                    "digest": digest(&item.digest), "commit": item.commit,
                })
            });
            let (files, folder) = (files.collect::<Vec<_>>(), plan.folder.display().to_string());
            return event(json!({
                "event": "plan", "name": plan.name, "folder": folder, "bytes": plan.size(), "files": files,
            }));
        }
        let mut table = Table::new(&["FILE", "SIZE", "DIGEST"], &[1]);
        for item in &plan.files {
            let size = item.size.map_or("unknown".to_owned(), output::bytes);
            table.row([item.name.clone(), size, digest(&item.digest).unwrap_or_else(|| "none".to_owned())]);
        }
        table.print()?;
        output::print(format!("into {}{}", plan.folder.display(), free(&plan.folder)))
    }

    fn say_where(&self, remote: &Remote, path: &Path, is_new: bool, kind: Kind) -> Result<()> {
        if self.json {
            let path = path.display().to_string();
            return event(
                json!({ "event": "done", "name": remote.to_string(), "path": path, "is_new": is_new }),
            );
        }
        if !is_new {
            output::note("it is here already (known by name and size)");
        }
        let name = if self.to.is_none() { remote.to_string() } else { path.display().to_string() };
        output::note(match kind {
            Kind::Gguf => format!("run it: moewe chat {name}"),
            Kind::Checkpoint => format!(
                "a checkpoint; run it, which converts it: moewe chat {name}; or convert it: moewe convert {} -o model.gguf \
                 --bits 4",
                path.display()
            ),
        });
        output::print(path.display())
    }
}

fn parse(what: &str) -> Result<Remote> {
    Remote::parse(what).with_context(|| {
        format!(
            "{what}: expected hf:OWNER/REPO, hf:OWNER/REPO:Q4_K_M, ollama:NAME:TAG, ms:OWNER/REPO or \
             https://HOST/FILE.gguf"
        )
    })?
}

/// The folder that models are put into.
pub(super) fn folder_of_models() -> Result<PathBuf> {
    let first = folders::models().into_iter().next();
    first.context("no folder for models: name one in $MOEWE_MODELS, or say --to FOLDER")
}

fn free(folder: &Path) -> String {
    let there = folders::free(folder);
    there.map_or(String::new(), |bytes| format!("; {} are free there", output::bytes(bytes)))
}

/// What becomes of a checkpoint that is pulled in the place of a model.
pub(crate) struct Conversion {
    /// The level, as it was asked for.
    pub(crate) bits: f64,
    /// What that takes.
    pub(crate) bits_per_weight: f64,
    /// Whether a person asked for these bits; then a model that is one already will not do.
    pub(crate) is_asked_for: bool,
}

impl Conversion {
    /// A line about its result. How wide weights are is known only when they are here; most are published in 16 bits.
    fn told(&self, plan: &Plan) -> String {
        let weights = plan.files.iter().filter(|item| item.name.ends_with(".safetensors"));
        let bytes = weights.map(|item| item.size.unwrap_or(0)).fold(0, u64::saturating_add);
        let size = output::bytes((bytes as f64 * self.bits_per_weight / 16.0) as u64);
        format!(", and convert it to {} bits, about {size} more if its weights have 16", self.bits)
    }
}

/// Asks whether to go on, once.
fn ask(plan: &Plan, then: Option<&Conversion>) -> Result<()> {
    let size = plan.size().map_or("of unknown size".to_owned(), output::bytes);
    let file = plan.files.first().map_or("", |item| item.name.as_str());
    let more = if plan.files.len() > 1 {
        format!(" and {} more files", plan.files.len() - 1)
    } else {
        String::new()
    };
    let then = then.filter(|_| plan.kind == Kind::Checkpoint).map_or(String::new(), |then| then.told(plan));
    let free = free(&plan.folder);
    consent::ask(&format!("pull {}: {file}{more}, {size}{then}{free}", plan.name), Usual::Yes)
}

/// The file or folder that a remote name means: what is here, else what is pulled after a question.
pub(crate) fn obtain(remote: &Remote, wants: Wants, yes: bool) -> Result<PathBuf> {
    match pull::find(remote, &folders::models(), &folders::others(), wants) {
        Some(kept) => Ok(kept.path),
        None => fetch(remote, wants, yes, None),
    }
}

/// What a remote name means on this machine where a model is wanted, or a checkpoint to make one of.
pub(crate) fn here(remote: &Remote, wants: Wants) -> Option<PathBuf> {
    let find = |wants| pull::find(remote, &folders::models(), &folders::others(), wants);
    // Other programs may have a part of a checkpoint only.
    let is_whole = |kept: &Kept| kept.path.is_file() || Checkpoint::open(&kept.path).is_ok();
    find(wants).or_else(|| find(Wants::Checkpoint)).filter(is_whole).map(|kept| kept.path)
}

/// Pulls a model, or a checkpoint to make one of, after a question that is about both.
pub(crate) fn fetch(remote: &Remote, wants: Wants, yes: bool, then: Option<&Conversion>) -> Result<PathBuf> {
    let how = format!("get it first: moewe pull {remote}");
    if folders::is_offline() {
        bail!("{remote} is not on this machine, and $HF_HUB_OFFLINE forbids to pull it; {how}");
    }
    if !yes && !consent::can_ask() {
        bail!("{remote} is not on this machine; {how}, or say --yes");
    }
    let listener = interrupt::listen_to_all();
    let settings = Settings {
        limits: Limits::default(),
        token_file: None,
        stop: listener.flag(),
        others: folders::others(),
    };
    let models = folder_of_models()?;
    let request = Request { remote, revision: None, sha256: None, wants, models: &models, to: None };
    let puller = Puller::new(&settings, remote)?;
    let plan = puller.plan(&request)?;
    match (plan.kind, then) {
        (Kind::Checkpoint, None) if wants == Wants::Model => bail!(
            "{remote} has a checkpoint and no GGUF file; convert it: moewe convert {remote} -o model.gguf --bits 4"
        ),
        (Kind::Gguf, Some(then)) if then.is_asked_for => bail!(
            "{remote} means a GGUF file, which has its bits already; leave --bits {} out, or convert it first: moewe \
             convert {remote} -o model.gguf --bits {}",
            then.bits,
            then.bits
        ),
        _ => {}
    }
    plan.remarks.iter().for_each(output::note);
    if !yes {
        ask(&plan, then)?;
    }
    puller.carry_out(&plan, &Shown::new(false))
}

fn event(value: Value) -> Result<()> {
    output::print(serde_json::to_string(&value)?)
}

/// What happens, for a terminal, a log, or a program that reads JSON.
struct Shown {
    is_json: bool,
    is_terminal: bool,
    bar: RefCell<Option<ProgressBar>>,
    name: RefCell<String>,
    last: Cell<Instant>,
}

impl Shown {
    fn new(is_json: bool) -> Self {
        Self {
            is_json,
            is_terminal: stderr().is_terminal(),
            bar: RefCell::new(None),
            name: RefCell::default(),
            last: Cell::new(Instant::now()),
        }
    }

    /// An event for whoever reads; that nobody does is found when the result is printed.
    fn event(&self, value: Value) {
        let _ = event(value);
    }
}

impl Report for Shown {
    fn begin(&self, name: &str, size: Option<u64>, done: u64) {
        name.clone_into(&mut self.name.borrow_mut());
        if self.is_json {
            return self.event(json!({ "event": "begin", "file": name, "bytes": size, "done": done }));
        }
        if !self.is_terminal {
            let size = size.map_or("unknown size".to_owned(), output::bytes);
            let going = if done > 0 { format!(", {} are here", output::bytes(done)) } else { String::new() };
            return output::note(format!("{name}: {size}{going}"));
        }
        let bar = bar(false, "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left  {msg}");
        bar.set_message(output::excerpt(name, 40));
        size.into_iter().for_each(|size| bar.set_length(size));
        bar.set_position(done);
        bar.reset_eta();
        *self.bar.borrow_mut() = Some(bar);
    }

    fn at(&self, done: u64, size: Option<u64>) {
        if let Some(bar) = &*self.bar.borrow() {
            size.into_iter().for_each(|size| bar.set_length(size));
            return bar.set_position(done);
        }
        let pause = if self.is_json { EVENT_EVERY } else { LINE_EVERY };
        if self.last.get().elapsed() < pause {
            return;
        }
        self.last.set(Instant::now());
        let name = self.name.borrow();
        if self.is_json {
            self.event(json!({ "event": "progress", "file": *name, "bytes": size, "done": done }));
        } else {
            let of = size.map_or(String::new(), |size| format!(" of {}", output::bytes(size)));
            output::note(format!("{name}: {}{of}", output::bytes(done)));
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        if self.is_json {
            return self.event(json!({ "event": "note", "text": line }));
        }
        match &*self.bar.borrow() {
            Some(bar) => bar.println(output::harmless(line)),
            None => output::note(output::harmless(line)),
        }
    }
}
