//! Adapters: folders that peft wrote and GGUF files, as changes of a base's tensors by GGUF's names. Merged into a source
//! of conversions, or written as a GGUF file of their own.

mod file;
mod merged;
mod peft;
mod placed;
mod settings;

pub use file::Written;
pub(crate) use file::write;
pub(crate) use merged::Merged;

use crate::hf::templates;
use crate::source::Source;
use moewe_engine::gguf::Metadata;
use moewe_engine::model::Adapter;
use moewe_engine::{Error, Result};
use placed::Placed;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An adapter that a person names.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// A folder that peft wrote, or a GGUF file.
    pub path: PathBuf,
    /// Factor of all of it.
    pub scale: f64,
}

/// What is added to one matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Low {
    pub(crate) rank: usize,
    pub(crate) a: Vec<f32>, // (rank, inputs)
    pub(crate) b: Vec<f32>, // (outputs, rank)
    pub(crate) scale: f64,
}

impl Low {
    /// Both together, on a matrix of so many outputs: their ranks add up.
    fn and(mut self, other: &Self, outputs: usize) -> Self {
        let rows = (0..outputs).flat_map(|row| {
            let own = &self.b[row * self.rank..(row + 1) * self.rank];
            let others = &other.b[row * other.rank..(row + 1) * other.rank];
            let scaled = |values: &[f32], scale: f64| {
                values.iter().map(move |&value| (f64::from(value) * scale) as f32).collect::<Vec<f32>>()
            };
            [scaled(own, self.scale), scaled(others, other.scale)].concat()
        });
        let b = rows.collect();
        self.a.extend_from_slice(&other.a);
        Self { rank: self.rank + other.rank, b, scale: 1.0, ..self }
    }
}

/// What becomes of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Change {
    /// One per expert; none where an expert is left as it is.
    pub(crate) lows: Vec<Option<Low>>,
    /// Lengths that the rows get (DoRA).
    pub(crate) magnitude: Option<Vec<f32>>,
    /// Other weights altogether.
    pub(crate) whole: Option<Vec<f32>>,
}

/// An adapter that was read, with its places in a base.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) name: String,
    /// By GGUF's names.
    pub(crate) tensors: BTreeMap<String, Change>,
    /// `alpha` of most of it, for a file of its own.
    pub(crate) alpha: f64,
    /// Chat templates that go with it.
    pub(crate) templates: Metadata,
    pub(crate) notes: Vec<String>,
}

impl Changes {
    /// Reads an adapter for a base.
    ///
    /// # Errors
    /// No adapter, one whose settings are not computed here, or of another base: names and lengths tell.
    pub(crate) fn read(named: &Path, base: &dyn Source) -> Result<Self> {
        let changes = match named.is_dir() {
            true => {
                let (settings, weights) = peft::open(named)?;
                let changes = Placed::new(&settings, base)?.changes(&weights, name_of(named));
                changes.and_then(|mut changes| {
                    changes.notes = templates::set_chat_templates(named, &mut changes.templates)?;
                    Ok(changes)
                })
            }
            false => of_file(Adapter::open(named, 1.0)?, base),
        };
        changes.map_err(|error| error.in_file(named))
    }
}

fn name_of(path: &Path) -> String {
    path.canonicalize()
        .unwrap_or(path.to_owned())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A GGUF adapter speaks of GGUF's tensors already.
fn of_file(adapter: Adapter, base: &dyn Source) -> Result<Changes> {
    let architecture = base.metadata().require_str("general.architecture")?;
    if adapter.architecture != architecture {
        return Err(other_base(&adapter.architecture, architecture));
    }
    let mut tensors = BTreeMap::new();
    for (name, pair) in &adapter.pairs {
        let subject = subject_of(base, name)?;
        let expected = (subject.experts(), subject.rows_per_expert() as usize, subject.columns() as usize);
        let found = (pair.experts, pair.outputs, pair.inputs);
        if found != expected {
            return Err(other_lengths(name, expected, found));
        }
        let low = |e: usize| {
            let (a, b) = pair.of(e);
            Some(Low { rank: pair.rank(), a: a.to_vec(), b: b.to_vec(), scale: f64::from(pair.scale) })
        };
        let lows = (0..pair.experts).map(low).collect();
        tensors.insert(name.clone(), Change { lows, ..Change::default() });
    }
    let skipped =
        adapter.skipped.iter().map(|name| format!("{name} of the adapter is left out, as llama.cpp does"));
    let mut templates = Metadata::new();
    if let Some(template) = &adapter.chat_template {
        templates.set("tokenizer.chat_template", template.as_str());
    }
    Ok(Changes { name: adapter.name, tensors, alpha: 0.0, templates, notes: skipped.collect() })
}

pub(crate) fn subject_of<'b>(base: &'b dyn Source, name: &str) -> Result<&'b crate::tensor::Subject> {
    let found = base.tensors().iter().find(|tensor| tensor.subject.name == name);
    found.map(|tensor| &tensor.subject).ok_or_else(|| {
        let what = format!("the adapter changes {name}, which the base lacks");
        Error::unsupported(what, "name the base that it was trained on")
    })
}

pub(crate) fn other_base(adapters: &str, bases: &str) -> Error {
    let what = format!("the adapter is for the architecture {adapters}, the base of {bases}");
    Error::unsupported(what, "name the base that it was trained on")
}

pub(crate) fn other_lengths(
    name: &str,
    expected: (usize, usize, usize),
    found: (usize, usize, usize),
) -> Error {
    let shape = |(experts, outputs, inputs): (usize, usize, usize)| match experts {
        1 => format!("{outputs} by {inputs}"),
        count => format!("{count} times {outputs} by {inputs}"),
    };
    Error::malformed(format!("the adapter's {name}"), format!("the base's {}", shape(expected)), shape(found))
}

/// `(rows, columns)` the other way round.
fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
