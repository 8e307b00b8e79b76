//! What a pull will do: which files, from where, to where, and how they are to be checked.

use super::choice::{self, Entry};
use super::digest::Digest;
use super::name::{self, Repository};
use super::{Request, check_header};
use anyhow::{Context, Result, bail};
use reqwest::Url;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file to get.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// What it will be called.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) url: Url,
    /// Its bytes, if the place says.
    pub(crate) size: Option<u64>,
    /// What its bytes have to be, if the place says.
    pub(crate) digest: Option<Digest>,
    /// The commit of its repository.
    pub(crate) commit: Option<String>,
}

/// What the files are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A model, of a split one all parts in their order.
    Gguf,
    /// A checkpoint to convert.
    Checkpoint,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wants {
    /// A model, or a checkpoint where there is none.
    Model,
    /// A checkpoint, or a model where there is none.
    Checkpoint,
}

/// What a pull will do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The name that was asked for.
    pub(crate) name: String,
    /// What the files are.
    pub(crate) kind: Kind,
    /// Where they go.
    pub(crate) folder: PathBuf,
    /// The files.
    pub(crate) files: Vec<Item>,
    /// What a person should know of the choice.
    pub(crate) remarks: Vec<String>,
    /// Whether the model was chosen from several, and nothing said which.
    pub(crate) is_guess: bool,
    pub(super) base: Option<PathBuf>, // the model folder that `folder` must not leave
}

/// The files of a repository that are meant.
pub(super) struct Meant {
    pub(super) kind: Kind,
    /// In their order.
    pub(super) files: Vec<Entry>,
    pub(super) remarks: Vec<String>,
    pub(super) is_guess: bool,
}

/// Which files of a repository are meant.
pub(super) fn chosen(request: &Request<'_>, of: &Repository, entries: &[Entry]) -> Result<Meant> {
    let checkpoint = choice::checkpoint(entries);
    let is_named = of.tag.is_some() || of.file.is_some();
    let has_models = !choice::groups(entries).is_empty();
    let takes_checkpoint = !is_named && (request.wants == Wants::Checkpoint || !has_models);
    if takes_checkpoint && !checkpoint.is_empty() {
        let files = checkpoint.into_iter().cloned().collect();
        return Ok(Meant { kind: Kind::Checkpoint, files, remarks: vec![], is_guess: false });
    }
    let found = choice::choose(entries, of.tag.as_deref(), of.file.as_deref());
    let found = found.with_context(|| request.remote.to_string())?;
    let remarks = vec![format!("{}: {}", choice::base(&found.group.stem), found.why)];
    let files = found.group.parts.into_iter().cloned().collect();
    Ok(Meant { kind: Kind::Gguf, files, remarks, is_guess: found.is_guess })
}

/// What a file of a repository is called here: its name, with its folder's before it where another has the same.
pub(super) fn local_name(path: &str, entries: &[Entry]) -> String {
    let name = choice::base(path);
    let is_twice = entries.iter().filter(|entry| choice::base(&entry.path) == name).count() > 1;
    if is_twice { path.replace('/', "-") } else { name.to_owned() }
}

impl Plan {
    pub(super) fn new(request: &Request<'_>, kind: Kind, files: Vec<Item>, remarks: Vec<String>) -> Self {
        let folders = request.remote.folders();
        let below = folders.iter().fold(request.models.to_owned(), |path, part| path.join(part));
        Self {
            name: request.remote.to_string(),
            kind,
            folder: request.to.map_or(below, Path::to_owned),
            files,
            remarks,
            is_guess: false,
            base: request.to.is_none().then(|| request.models.to_owned()),
        }
    }

    /// All bytes, as far as the place says.
    pub(crate) fn size(&self) -> Option<u64> {
        self.files.iter().try_fold(0u64, |sum, item| sum.checked_add(item.size?))
    }

    /// Whether all files are here.
    ///
    /// # Errors
    /// Another file has the name of one.
    pub(crate) fn is_done(&self) -> Result<bool> {
        self.files.iter().try_fold(true, |all, item| Ok(all && self.is_there(item)?))
    }

    /// What is run in the end.
    pub(crate) fn result(&self) -> PathBuf {
        match (self.kind, self.files.first()) {
            (Kind::Gguf, Some(first)) => self.folder.join(&first.name),
            _ => self.folder.clone(),
        }
    }

    /// Refuses names that are no file names here, or that two files have.
    pub(super) fn check(&self) -> Result<()> {
        let mut names = HashSet::new();
        for item in &self.files {
            if !name::is_safe(&item.name) {
                bail!("{}: the file '{}' has a name that is not taken", self.name, item.name.escape_debug());
            }
            if !names.insert(item.name.to_lowercase()) {
                bail!("{}: two files are called {}", self.name, item.name);
            }
        }
        if self.files.is_empty() {
            bail!("{}: there is no file to get", self.name);
        }
        Ok(())
    }

    /// Refuses a folder that links have led out of the model folder.
    pub(super) fn check_folder(&self) -> Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let (base, folder) = (fs::canonicalize(base)?, fs::canonicalize(&self.folder)?);
        if !folder.starts_with(&base) {
            bail!("{} leads out of {}; name a folder with --to", self.folder.display(), base.display());
        }
        Ok(())
    }

    /// Whether a file is here already, which only its size tells.
    ///
    /// # Errors
    /// Another file has its name.
    pub(super) fn is_there(&self, item: &Item) -> Result<bool> {
        let target = self.folder.join(&item.name);
        let Ok(data) = fs::metadata(&target) else {
            if target.is_symlink() {
                bail!("{} is a link to nothing; remove it", target.display());
            }
            return Ok(false);
        };
        match item.size.filter(|&size| size != data.len() || !data.is_file()) {
            Some(size) => bail!(
                "{} is another file of {} bytes, not {size}; move it away, or name a folder with --to",
                target.display(),
                data.len()
            ),
            None => Ok(true),
        }
    }

    /// Whether a file is what makes the others count: it gets its name last.
    pub(super) fn is_door(&self, target: &Path) -> bool {
        let name = target.file_name().and_then(|name| name.to_str());
        match self.kind {
            Kind::Gguf => name == self.files.first().map(|item| item.name.as_str()),
            Kind::Checkpoint => name == Some("config.json"),
        }
    }

    /// Opens what has arrived.
    pub(super) fn check_whole(&self) -> Result<()> {
        match self.kind {
            Kind::Gguf => check_header(&self.result()),
            Kind::Checkpoint => Ok(()),
        }
    }
}
