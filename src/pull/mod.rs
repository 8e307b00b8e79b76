//! Models from elsewhere: names of remote models, what a name means there, and files that arrive whole or not at all.
//!
//! The order of a pull: a [`Remote`] is parsed, a [`Plan`] says which files it means, [`Puller::carry_out`] gets them.
//! HTTP runs on one thread of its own runtime. What the command says and asks is not decided here, see [`Report`].

mod choice;
mod client;
mod digest;
mod download;
mod hub;
mod local;
mod modelscope;
mod name;
mod ollama;
mod part;
mod places;
mod plan;
mod reuse;

pub(crate) use client::Limits;
pub(crate) use digest::hex;
pub(crate) use local::{Kept, Others, find};
pub(crate) use name::Remote;
pub(crate) use plan::{Kind, Plan, Wants};

use anyhow::{Context, Result, bail};
use client::Client;
use moewe_engine::gguf::Gguf;
use moewe_engine::os::room;
use part::Part;
use plan::Item;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Who is told what happens.
pub(crate) trait Report {
    /// A file begins, of which so many bytes are here already.
    fn begin(&self, name: &str, size: Option<u64>, done: u64);
    /// So many bytes of the file are here.
    fn at(&self, done: u64, size: Option<u64>);
    /// The file is whole.
    fn end(&self);
    /// What a person should know.
    fn say(&self, line: &str);
}

/// How to pull.
pub(crate) struct Settings {
    /// Sizes and times.
    pub(crate) limits: Limits,
    /// A file that holds the token, in place of the environment's.
    pub(crate) token_file: Option<PathBuf>,
    /// Raised when the person asks to stop.
    pub(crate) stop: Arc<AtomicBool>,
    /// Who may have the same files already.
    pub(crate) others: Others,
}

/// What a name is to mean.
pub(crate) struct Request<'a> {
    /// The name.
    pub(crate) remote: &'a Remote,
    /// A branch, tag or commit in place of the repository's main branch.
    pub(crate) revision: Option<&'a str>,
    /// The SHA-256 that a plain address has to have.
    pub(crate) sha256: Option<&'a str>,
    /// Whether a model or a checkpoint is wanted.
    pub(crate) wants: Wants,
    /// The folder of all models, of which the model gets a part.
    pub(crate) models: &'a Path,
    /// The very folder to put files into.
    pub(crate) to: Option<&'a Path>,
}

/// Gets models.
pub(crate) struct Puller {
    runtime: tokio::runtime::Runtime,
    client: Client,
    others: Others,
}

impl Puller {
    /// A puller for one remote name.
    ///
    /// # Errors
    /// The token's file cannot be read, or there are no certificates to trust.
    pub(crate) fn new(settings: &Settings, remote: &Remote) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let home = remote.home()?;
        let token = client::Token::find(settings.token_file.as_deref(), remote, &home)?;
        let client = Client::new(settings.limits, settings.stop.clone(), token, &home)?;
        let others = settings.others.clone();
        Ok(Self { runtime: runtime.context("cannot start the network's thread")?, client, others })
    }

    /// Which files a name means.
    ///
    /// # Errors
    /// The network, names that do not exist there, and what cannot be chosen from.
    pub(crate) fn plan(&self, request: &Request<'_>) -> Result<Plan> {
        let plan = self.runtime.block_on(places::plan(&self.client, request))?;
        plan.check()?;
        Ok(plan)
    }

    /// Gets the files of a plan, and returns what to run: a GGUF file or a checkpoint's folder.
    ///
    /// # Errors
    /// What keeps a file from being whole. What has arrived stays for the next time.
    pub(crate) fn carry_out(&self, plan: &Plan, report: &dyn Report) -> Result<PathBuf> {
        room::report_file_limit();
        fs::create_dir_all(&plan.folder)
            .with_context(|| format!("{}: cannot create the folder", plan.folder.display()))?;
        plan.check_folder()?;
        ensure_room(plan)?;
        let mut whole = Vec::new();
        for item in &plan.files {
            if let Some(part) = self.runtime.block_on(self.one(plan, item, report))? {
                whole.push(part);
            }
        }
        // What makes a model visible comes last: the first part of a split one, a checkpoint's config.json.
        whole.sort_by_key(|part| plan.is_door(part.target()));
        whole.into_iter().try_for_each(Part::publish)?;
        plan.check_whole()?;
        Ok(plan.result())
    }

    /// A whole file that is not yet called by its name; nothing where it already is.
    async fn one(&self, plan: &Plan, item: &Item, report: &dyn Report) -> Result<Option<Part>> {
        let target = plan.folder.join(&item.name);
        let mut said = false;
        loop {
            if plan.is_there(item)? {
                return Ok(None);
            }
            match Part::open(&target, item)? {
                Some(mut part) => {
                    if !reuse::fill(&mut part, item, &self.others, self.client.stop(), report)? {
                        part = download::download(&self.client, item, part, report).await?;
                    }
                    if plan.kind == Kind::Gguf {
                        part.expect_gguf()?;
                    }
                    return Ok(Some(part));
                }
                None if !said => {
                    report.say(&format!("another moewe pulls {}; waiting for it", item.name));
                    said = true;
                }
                None => {}
            }
            self.client.rest(client::TICK).await?;
        }
    }
}

/// Refuses what the disk cannot hold, before the first byte.
fn ensure_room(plan: &Plan) -> Result<()> {
    let Some(free) = room::available(&plan.folder) else { return Ok(()) };
    let needed = plan.files.iter().map(|item| {
        let target = plan.folder.join(&item.name);
        if target.exists() { 0 } else { item.size.unwrap_or(0).saturating_sub(part::kept(&target, item)) }
    });
    let needed = needed.fold(0, u64::saturating_add);
    if needed > free {
        bail!(
            "{}: {needed} bytes are still to come and {free} are free; {} more are needed, or another folder \
             (--to)",
            plan.folder.display(),
            needed - free
        );
    }
    Ok(())
}

/// Whether the header of a model can be read.
fn check_header(path: &Path) -> Result<()> {
    Gguf::open(path).map(drop).with_context(|| {
        format!("{} has arrived whole, but it is no model that can be opened", path.display())
    })
}
