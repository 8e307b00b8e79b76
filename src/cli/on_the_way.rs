//! A checkpoint where a model is wanted: converted once, after a question, and found again from then on.
//!
//! What a checkpoint is, and what its conversion reads, the converter says; where the result lies is `converted.rs`.

use super::consent::{self, Usual};
use super::conversion::{self, Bar};
use super::converted::{self, Slot};
use super::models::{self, Place};
use super::pull::{self, Conversion};
use super::{folders, output};
use crate::pull::{Remote, Wants};
use anyhow::{Context, Result, bail};
use moewe_convert::checkpoint::Checkpoint;
use moewe_convert::{Options, Recipe};
use moewe_engine::os::interrupt;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const BITS: f64 = 8.0; // what is hardly told from the original

/// What the person said about it.
pub(super) struct Wish {
    /// The level that was asked for.
    pub(super) bits: Option<f64>,
    pub(super) yes: bool,
    pub(super) quiet: bool,
}

/// The place of the model called `name`, or of what a checkpoint of that name is converted to.
pub(super) fn place(name: Option<&OsStr>, wish: &Wish) -> Result<Place> {
    let bits = wish.bits.unwrap_or(BITS);
    let level = Level { bits, recipe: conversion::of_bits(bits)?, wish };
    if let Some(remote) = name.and_then(models::remote) {
        return level.of_remote(&remote?);
    }
    match name.map(Path::new).map(source_at).transpose()?.flatten() {
        Some(source) => level.converted(&source, wish.yes),
        None => level.as_it_is(models::resolve(name, wish.yes)?),
    }
}

/// A checkpoint on this machine.
struct Source {
    /// What to convert: a folder, or one weight file of several.
    path: PathBuf,
    /// What a person calls it.
    name: String,
    checkpoint: Checkpoint,
}

impl Source {
    fn new(path: &Path, checkpoint: Checkpoint) -> Self {
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string();
        Self { path: path.to_owned(), name, checkpoint }
    }
}

/// The checkpoint that a path means, if it means one.
///
/// # Errors
/// What is wrong with a checkpoint.
fn source_at(path: &Path) -> Result<Option<Source>> {
    if path.is_dir() {
        let says_so = path.join("config.json").is_file();
        let has_models = models::holds_models(path);
        return match Checkpoint::open(path) {
            Ok(checkpoint) if says_so || !has_models => Ok(Some(Source::new(path, checkpoint))),
            Err(error) if says_so && !has_models => Err(error.into()),
            _ => Ok(None),
        };
    }
    if !models::holds_weights(path) {
        return Ok(None);
    }
    let folder = models::folder_of(path);
    let is_this = |file: &Path| file.file_name() == path.file_name();
    match Checkpoint::open(folder) {
        // One shard stands for all of them, and the only weights for their folder.
        Ok(whole) if whole.files().any(is_this) => return Ok(Some(Source::new(folder, whole))),
        Err(error) if is_shard(path) => return Err(error.into()),
        _ => {}
    }
    Ok(Some(Source::new(path, Checkpoint::open(path)?)))
}

fn is_shard(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("-of-"))
}

/// The level at which a checkpoint becomes a model.
struct Level<'a> {
    bits: f64,
    recipe: Recipe,
    wish: &'a Wish,
}

impl Level<'_> {
    /// The same for whoever asks before a pull.
    fn told(&self) -> Conversion {
        let bits_per_weight = if let Recipe::Bits(limit) = self.recipe { limit } else { self.bits };
        Conversion { bits: self.bits, bits_per_weight, is_asked_for: self.wish.bits.is_some() }
    }

    /// What a remote name means here, else what became of it before, else what is pulled.
    fn of_remote(&self, remote: &Remote) -> Result<Place> {
        let wants = if self.wish.bits.is_some() { Wants::Checkpoint } else { Wants::Model };
        let name = remote.to_string();
        let (path, is_agreed) = match pull::here(remote, wants) {
            Some(path) => (path, self.wish.yes),
            // Who has converted a checkpoint may have removed it.
            None => match converted::made_from(&name, &conversion::level(self.bits)) {
                Some(path) => return Ok(self.made_before(&name, path)),
                None => (pull::fetch(remote, wants, self.wish.yes, Some(&self.told()))?, true),
            },
        };
        match source_at(&path)? {
            Some(source) => self.converted(&Source { name, ..source }, is_agreed),
            None => self.as_it_is(models::existing(&path)?),
        }
    }

    fn made_before(&self, name: &str, path: PathBuf) -> Place {
        self.say(format!("{name} was converted before, at {} bits: {}", self.bits, path.display()));
        Place::File(path)
    }

    /// A model that needs no conversion, and takes none.
    fn as_it_is(&self, place: Place) -> Result<Place> {
        match (self.wish.bits, &place) {
            (None, _) => Ok(place),
            (Some(bits), Place::File(path)) => bail!(
                "{place} is a GGUF file already, and --bits is for checkpoints; another of {bits} bits: moewe convert \
                 {} -o model.gguf --bits {bits}",
                path.display()
            ),
            (Some(_), Place::Embedded) => {
                bail!("{place} is part of the program, and --bits is for checkpoints")
            }
        }
    }

    /// What the checkpoint is converted to, before or now, and only if that is agreed to.
    fn converted(&self, source: &Source, is_agreed: bool) -> Result<Place> {
        let slot = Slot::of(&source.checkpoint, &conversion::level(self.bits))?;
        if let Some(path) = slot.filled() {
            return Ok(self.made_before(&source.name, path));
        }
        let name = moewe_convert::model_name(&source.path).unwrap_or_default();
        let path = slot.file(&name);
        if !is_agreed {
            self.ask(source, &slot)?;
        }
        fs::create_dir_all(slot.folder())
            .with_context(|| format!("{}: cannot create the folder", slot.folder().display()))?;
        self.convert(source, &path)?;
        if let Err(error) = converted::remember(&path, &source.name) {
            output::note(format!("where it came from is not written down: {error:#}")); // the model is whole
        }
        self.say(format!(
            "converted to {} bits, and used from there next time: {}",
            self.bits,
            path.display()
        ));
        Ok(Place::File(path))
    }

    fn say(&self, line: String) {
        if !self.wish.quiet {
            output::note(line);
        }
    }

    /// Asks once; what cannot be done is said before.
    fn ask(&self, source: &Source, slot: &Slot) -> Result<()> {
        let (from, bits) = (source.path.display(), self.bits);
        if !consent::can_ask() {
            bail!(
                "{from}: a checkpoint, not a GGUF file; --yes converts it to {bits} bits on the way, or convert it first: \
                 moewe convert {from} -o model.gguf --bits {bits}"
            );
        }
        self.say(format!("{from} is a checkpoint; looking how large it will be"));
        let options = Options { dry_run: true, ..Options::with(self.recipe) };
        let bytes = moewe_convert::convert(&source.path, Path::new(""), &options, &())?.bytes;
        let free = folders::free(slot.folder());
        if let Some(free) = free.filter(|&free| free < bytes) {
            bail!(
                "{from} at {bits} bits takes {}, and {} are free for {}; name another folder in $MOEWE_CACHE, or take \
                 fewer --bits",
                output::bytes(bytes),
                output::bytes(free),
                slot.folder().display()
            );
        }
        let free = free.map_or(String::new(), |free| format!(", where {} are free", output::bytes(free)));
        let (size, folder) = (output::bytes(bytes), slot.folder().display());
        consent::ask(&format!("convert {from} to {bits} bits, {size} into {folder}{free}"), Usual::Yes)
    }

    fn convert(&self, source: &Source, path: &Path) -> Result<()> {
        let listener = interrupt::listen_to_all();
        let options = Options { stop: listener.flag(), ..Options::with(self.recipe) };
        let progress = Bar::new(self.wish.quiet);
        let report = moewe_convert::convert(&source.path, path, &options, &progress);
        progress.clear();
        match report {
            Ok(report) => conversion::note(self.recipe, &report, self.wish.quiet),
            // Another process may have been faster; then its file is as good.
            Err(_) if path.is_file() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
