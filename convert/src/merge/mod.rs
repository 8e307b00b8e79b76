//! Several dense models into one mixture of experts: mergekit's files, its gates and better ones, written as a folder or
//! straight as GGUF in bounded memory.
//!
//! `mixture.rs` is what is wanted, `member.rs` what it is made of, `family.rs` what it becomes; `gates/` makes the
//! routers, `assembled.rs` is the result as a source of conversions, `folder.rs` writes it for transformers, `account.rs`
//! says what all of it takes.

mod account;
mod assembled;
mod checks;
mod family;
mod folder;
mod gates;
mod hidden;
mod member;
mod mixture;
mod preset;
mod rows;

pub use account::{Ingredient, Reading};
pub use gates::{Load, Loads, Wishes};
pub use mixture::{Expert, GateMode, Mixture, Origin, Places};
pub use preset::preset;

use crate::calibrate::Guide;
use crate::calibrated;
use crate::open::{Files as Opened, Opened as OpenedModel, refuse_source};
use crate::options::Options;
use crate::plain;
use crate::report::{Progress, Report};
use crate::source::Source;
use assembled::Assembled;
use family::Family;
use gates::{Gates, Material};
use hidden::Hidden;
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
    /// Why it is this one.
    pub because: String,
    /// What it is made of.
    pub sources: Vec<Ingredient>,
    /// What its gates are made of.
    pub gates: Reading,
    /// Weights that one token uses.
    pub active: u64,
    /// Bytes of memory that the merge takes beyond the mapped files of its sources, calibration not counted.
    pub memory: u64,
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
    for origin in mixture.origins() {
        if let Opened::Checkpoint(checkpoint) = &files.get(&origin.path).files {
            family::known(&origin.name, &checkpoint.config)?;
        }
    }
    let members = Members::of(&files, mixture, options)?;
    let base = members.get(&mixture.base[0].0);
    let (family, because) = family::family(mixture, base)?;
    let notes = checks::check(mixture, family, &members, asked.upcycle)?;
    let (files, members) = (&files, &members);
    let merge = Merge { mixture, files, members, base, family, because, asked, options, progress };
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
    because: String,
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
        let (source, made) = self.source(out, notes)?;
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
        self.merged(report, &source, made, 0)
    }

    fn folder(&self, out: &Path, notes: Vec<String>) -> Result<Merged> {
        folder::check(self.family, self.base)?;
        let opened: &OpenedModel = self.files.get(&self.mixture.base[0].0.path);
        let Opened::Checkpoint(checkpoint) = &opened.files else {
            return Err(Error::unsupported(
                format!("{} is a GGUF file, which has no tokenizer.json and config.json", self.base.name),
                "name the base's folder, or write a GGUF file (-o NAME.gguf)",
            ));
        };
        // Made before the gates, which take long.
        let hidden = if self.options.dry_run { None } else { Some(Hidden::create(out)?) };
        let (source, made) = self.source(out, notes)?;
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
        let report = writing.write(hidden)?;
        let largest = report.plan.iter().map(|planned| planned.bytes).max().unwrap_or(0);
        self.merged(report, &source, made, largest)
    }

    /// The mixture with its gates; those of a dry run are zeros.
    fn source(&self, out: &Path, notes: Vec<String>) -> Result<(Assembled<'m>, Made)> {
        let (Gates { layers, loads }, mut made) = self.gates()?;
        made.loads = loads;
        let gates = Gates { layers, loads: None };
        let mut source = Assembled::new(self.mixture, self.family, self.members, &gates, notes)?;
        source.name(out);
        Ok((source, made))
    }

    fn gates(&self) -> Result<(Gates, Made)> {
        let Some(path) = &self.asked.gates_from else { return self.gates_with(self.base) };
        let opened = OpenedModel::new(path)?;
        let name = path.display().to_string();
        let origin = Origin { name, path: path.clone(), adapters: vec![] };
        let other = Member::new(&origin, &opened, self.options)?;
        checks::same_base(self.base, &other)?;
        self.gates_with(&other)
    }

    /// Gates computed with a file of the base.
    fn gates_with(&self, base: &Member) -> Result<(Gates, Made)> {
        let (mixture, wishes) = (self.mixture, &self.asked.gates);
        let material = Material::of(mixture, base, wishes)?;
        let reading = account::reading(mixture, &material);
        let memory = account::gates_memory(mixture, base, reading.tokens)?;
        let gates = match self.options.dry_run {
            true => gates::none(mixture, base)?,
            false => {
                let mut heard = self.options.heard(self.progress);
                gates::compute(mixture, &material, base, wishes, &mut heard)?
            }
        };
        Ok((gates, Made { reading, memory, loads: None }))
    }

    fn merged(&self, report: Report, source: &Assembled, made: Made, piece: u64) -> Result<Merged> {
        let (experts, used) = (self.mixture.experts.len() as u64, self.mixture.experts_per_token as u64);
        Ok(Merged {
            report,
            family: self.family.name.to_owned(),
            because: self.because.clone(),
            sources: account::ingredients(self.mixture, self.members)?,
            gates: made.reading,
            active: account::active(experts, used, source.tensors()),
            memory: account::memory(made.memory, piece),
            loads: made.loads,
        })
    }
}

/// How gates came about.
struct Made {
    reading: Reading,
    memory: u64,
    loads: Option<Loads>,
}
