//! Several dense models into one mixture of experts: mergekit's files, its gates and better ones, written as a folder or
//! straight as GGUF in bounded memory.
//!
//! `mixture.rs` is what is wanted, `member.rs` what it is made of, `family.rs` what it becomes; `gates/` makes the
//! routers, `assembled.rs` is the result as a source of conversions, `folder.rs` writes it for transformers.

mod assembled;
mod checks;
mod family;
mod folder;
mod gates;
mod member;
mod mixture;
mod rows;

pub use gates::{Load, Loads, Wishes};
pub use mixture::{Expert, GateMode, Mixture, Origin, Places};

use crate::calibrate::Guide;
use crate::calibrated;
use crate::open::{Files as Opened, Opened as OpenedModel, refuse_source};
use crate::options::Options;
use crate::plain;
use crate::report::{Progress, Report};
use crate::source::Source;
use assembled::Assembled;
use family::Family;
use gates::Gates;
use member::{Files, Member, Members};
use moewe_engine::gguf::{Destination, Existing};
use moewe_engine::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What a person wants of a merge beyond the mixture.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// How gates are made.
    pub gates: Wishes,
    /// Another file of the base, such as a quantized one, that gates are computed with.
    pub gates_from: Option<PathBuf>,
    /// Whether all experts may be the same.
    pub upcycle: bool,
}

/// A finished merge.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Merged {
    /// What was written.
    pub report: Report,
    /// What mergekit calls the family.
    pub family: String,
    /// Weights that one token uses.
    pub active: u64,
    /// Where the routers look; none in a dry run, and without prompts and texts.
    pub loads: Option<Loads>,
}

/// Merges into `out`: a GGUF file where it ends so, else a folder.
///
/// # Errors
/// Sources that are missing, do not fit together or are no dense models of a known family; prompts that say nothing; an
/// `out` that exists (a file without `force`, any folder); [`Error::Stopped`].
pub fn merge(
    mixture: &Mixture,
    out: &Path,
    asked: &Asked,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Merged> {
    mixture.check()?;
    let files = Files::open(mixture)?;
    files.paths().try_for_each(|path| refuse_source(path, out))?;
    let members = Members::of(&files, mixture, options)?;
    let base = members.get(&mixture.base[0].0);
    let family = family::family(mixture, base)?;
    let notes = checks::check(mixture, family, &members, asked.upcycle)?;
    let merge = Merge { mixture, files: &files, members: &members, base, family, asked, options, progress };
    match out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        true => merge.file(out, notes),
        false => merge.folder(out, notes),
    }
}

/// All that a merge is made of.
struct Merge<'m> {
    mixture: &'m Mixture,
    files: &'m Files,
    members: &'m Members<'m>,
    base: &'m Member<'m>,
    family: &'static Family,
    asked: &'m Asked,
    options: &'m Options,
    progress: &'m dyn Progress,
}

impl<'m> Merge<'m> {
    fn file(&self, out: &Path, notes: Vec<String>) -> Result<Merged> {
        let existing =
            if self.options.force || self.options.dry_run { Existing::Replace } else { Existing::Keep };
        // Begun before the gates, which take long.
        let writes = !self.options.dry_run || self.options.calibrate.is_some();
        let destination = if writes { Some(Destination::create(out, existing)?) } else { None };
        let (source, loads) = self.source(notes)?;
        let written = match (&self.options.calibrate, destination) {
            (Some(text), Some(destination)) => {
                calibrated::write_source(&source, text, destination, self.options, self.progress)
            }
            (_, destination) => {
                let guide = Guide::with(self.options.importance.clone());
                plain::write_source(&source, guide, destination, self.options, self.progress)
            }
        };
        let (report, destination) = written?;
        destination.filter(|_| !self.options.dry_run).map_or(Ok(()), Destination::publish)?;
        Ok(self.merged(report, &source, loads))
    }

    fn folder(&self, out: &Path, notes: Vec<String>) -> Result<Merged> {
        folder::free(out)?;
        folder::check(self.family, self.base)?;
        let opened: &OpenedModel = self.files.get(&self.mixture.base[0].0.path);
        let Opened::Checkpoint(checkpoint) = &opened.files else {
            return Err(Error::unsupported(
                format!("{} is a GGUF file, which has no tokenizer.json and config.json", self.base.name),
                "name the base's folder, or write a GGUF file (-o NAME.gguf)",
            ));
        };
        let (source, loads) = self.source(notes)?;
        let writing = folder::Writing {
            mixture: self.mixture,
            family: self.family,
            base: self.base,
            checkpoint,
            source: &source,
            options: self.options,
            progress: self.progress,
            failure: Mutex::default(),
        };
        let report = writing.write(out)?;
        Ok(self.merged(report, &source, loads))
    }

    /// The mixture with its gates; a dry run has none.
    fn source(&self, notes: Vec<String>) -> Result<(Assembled<'m>, Option<Loads>)> {
        let Gates { layers, loads } = match self.options.dry_run {
            true => gates::none(self.mixture, self.base)?,
            false => self.gates()?,
        };
        let gates = Gates { layers, loads: None };
        let source = Assembled::new(self.mixture, self.family, self.members, &gates, notes)?;
        Ok((source, loads))
    }

    fn gates(&self) -> Result<Gates> {
        let mut heard = self.options.heard(self.progress);
        let Some(path) = &self.asked.gates_from else {
            return gates::compute(self.mixture, self.base, &self.asked.gates, &mut heard);
        };
        let opened = OpenedModel::new(path)?;
        let name = path.display().to_string();
        let other =
            Member::new(&Origin { name, path: path.clone(), adapters: vec![] }, &opened, self.options)?;
        for key in ["embedding_length", "block_count"] {
            let [ours, theirs] = [self.base, &other].map(|member| member.length(key));
            let (ours, theirs) = (ours?, theirs?);
            if ours != theirs {
                let what = format!("{} is not the base: its {key} is {theirs}, not {ours}", other.name);
                return Err(Error::unsupported(what, "name a file of the base with --gates-from"));
            }
        }
        gates::compute(self.mixture, &other, &self.asked.gates, &mut heard)
    }

    fn merged(&self, report: Report, source: &Assembled, loads: Option<Loads>) -> Merged {
        let (experts, used) = (self.mixture.experts.len() as u64, self.mixture.experts_per_token as u64);
        let weights = |tensor: &crate::tensor::Tensor| match tensor.subject.experts() > 1 {
            true => tensor.subject.weights() / experts * used,
            false => tensor.subject.weights(),
        };
        let active = source.tensors().iter().map(weights).sum();
        Merged { report, family: self.family.name.to_owned(), active, loads }
    }
}
