//! One endless stream of rows from many sources, as a pure function of seed and index.
//!
//! Which source a row comes from is arithmetic on its index, so that every prefix of the stream keeps the weights;
//! which of the source's rows it is, is a permutation that changes with each pass over the source. So the state of
//! training is one number, and ranks share the stream without talking. Reading ahead is the loader's business.

use super::manifest::Manifest;
use super::npy::Header;
use super::permutation::Permutation;
use super::shards::Shards;
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Steps into which weights are rounded.
const WEIGHT_STEPS: f64 = (1u64 << 32) as f64;

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// Held out.
    Valid,
}

impl Split {
    /// Its folder.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }
}

/// A folder to read rows from: a whole dataset, one of its sources, or shards without a split.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// A name for messages.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// Its share of the stream, relative to the others; `None` for all means by their rows.
    pub weight: Option<f64>,
}

/// The stream.
#[derive(Debug)]
pub struct Dataset {
    sources: Vec<Member>,
    starts: Vec<u64>, // weights of the sources before each, and of all at the end
    rows: u64,        // of all sources
    context: usize,
    vocabulary: usize,
}

/// A source with rows.
#[derive(Debug)]
struct Member {
    name: String,
    shards: Shards,
    rows: Range<u64>, // of the shards, those of the split
    weight: f64,
}

impl Dataset {
    /// Opens `split` of all sources for rows of `context` tokens with ids below `vocabulary`.
    ///
    /// # Errors
    /// Folders without shards, broken shards, weights for some sources only, and no row at all.
    pub fn open(specs: &[SourceSpec], split: Split, context: usize, vocabulary: usize) -> Result<Self> {
        check_weights(specs)?;
        if context < 2 {
            let why = "the context is 2 or more, as the first token of a row is never predicted";
            return Err(Error::request(format!("rows of {context} tokens; {why}")));
        }
        let mut sources = Vec::new();
        for spec in specs {
            sources.extend(members(spec, split, context, vocabulary)?);
        }
        sources.retain(|source| !source.rows.is_empty());
        if sources.is_empty() {
            let names =
                specs.iter().map(|spec| spec.folder.display().to_string()).collect::<Vec<_>>().join(", ");
            let hint = "name other folders, or hold more out with `moewe train shards --holdout`";
            let name = split.name();
            return Err(Error::request(format!("no rows in the {name} split of {names:?}; {hint}")));
        }
        let rows = sources.iter().map(Member::len).sum();
        Ok(Self { starts: starts(&sources), rows, sources, context, vocabulary })
    }

    /// Rows of all sources together: the length of an epoch.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> u64 {
        self.rows * self.context as u64
    }

    /// Tokens of a row.
    pub fn context(&self) -> usize {
        self.context
    }

    /// What happens to rows that are longer than the context; nothing to say where none is.
    pub fn cut(&self) -> Option<String> {
        let longest = self.sources.iter().map(|source| source.shards.longest_row()).max()?;
        if longest <= self.context {
            return None;
        }
        let context = self.context;
        let stored: u64 = self.sources.iter().map(|source| source.shards.tokens()).sum();
        let left =
            stored - self.sources.iter().map(|source| source.shards.rows()).sum::<u64>() * context as u64;
        let left = match left {
            0 => String::new(),
            left => format!("; {left} tokens at the ends of shards fill no piece"),
        };
        Some(format!("rows of {longest} tokens are cut into pieces of {context}{left}"))
    }

    /// All files that the rows stand in.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &Header)> {
        self.sources.iter().flat_map(|source| source.shards.files())
    }

    /// Ids are below this.
    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// How many times as many rows as there are come before row `index` of the stream.
    pub fn epoch_of(&self, index: u64) -> u64 {
        index / self.rows
    }

    /// Name, rows and share of the stream of each source.
    pub fn sources(&self) -> impl Iterator<Item = (&str, u64, f64)> {
        let total = self.starts.last().copied().unwrap_or(1) as f64;
        let shares = self.starts.windows(2).map(move |pair| (pair[1] - pair[0]) as f64 / total);
        self.sources.iter().zip(shares).map(|(source, share)| (&*source.name, source.len(), share))
    }

    /// Reads row `index` of the stream that belongs to `seed` into `out`, which holds one context.
    ///
    /// # Errors
    /// As [`Shards::row`].
    pub fn row(&self, seed: u64, index: u64, out: &mut [u32]) -> Result<()> {
        let (source, turn) = locate(&self.starts, index);
        let length = self.sources[source].len();
        let order = Permutation::at(seed, &[source as u64, turn / length], length);
        self.read(source, order.get(turn % length), out)
    }

    /// Reads row `index`, below [`Dataset::rows`], of the sources one after the other.
    ///
    /// # Errors
    /// As [`Shards::row`].
    pub fn sequential(&self, mut index: u64, out: &mut [u32]) -> Result<()> {
        for (number, source) in self.sources.iter().enumerate() {
            match index.checked_sub(source.len()) {
                None => return self.read(number, index, out),
                Some(rest) => index = rest,
            }
        }
        Err(Error::request(format!("the validation rows end at {}", self.rows)))
    }

    fn read(&self, source: usize, row: u64, out: &mut [u32]) -> Result<()> {
        let source = &self.sources[source];
        source.shards.row(source.rows.start + row, self.vocabulary, out)
    }
}

impl Member {
    fn len(&self) -> u64 {
        self.rows.end - self.rows.start
    }
}

/// The source of row `index`, and how many rows of that source come before it. `starts` are running sums of weights,
/// from the first source's beginning to the last one's end.
///
/// The sources are halved again and again: of the first n rows, the left half gets its share of n, rounded; so a
/// source is never further from its share than half a row per halving.
fn locate(starts: &[u64], index: u64) -> (usize, u64) {
    let (mut from, mut to, mut index) = (0, starts.len() - 1, index);
    while to - from > 1 {
        let middle = from.midpoint(to);
        let left = u128::from(starts[middle] - starts[from]);
        let both = u128::from(starts[to] - starts[from]);
        let of_left = |rows: u128| ((2 * rows * left + both) / (2 * both)) as u64;
        let before = of_left(u128::from(index));
        if of_left(u128::from(index) + 1) > before {
            (to, index) = (middle, before);
        } else {
            (from, index) = (middle, index - before);
        }
    }
    (from, index)
}

/// Running sums of the weights as integers: rows as they are, so that an epoch has each row once, or shares of 2^32.
fn starts(sources: &[Member]) -> Vec<u64> {
    let total: f64 = sources.iter().map(|source| source.weight).sum();
    let is_weighted = total > 0.0;
    let weight = |source: &Member| {
        let share = (source.weight / total * WEIGHT_STEPS).round() as u64;
        if is_weighted { share.max(1) } else { source.len() }
    };
    let mut sum = 0;
    let sums = sources.iter().map(|source| {
        sum += weight(source);
        sum
    });
    std::iter::once(0).chain(sums).collect()
}

fn check_weights(specs: &[SourceSpec]) -> Result<()> {
    let given = specs.iter().filter_map(|spec| spec.weight).collect::<Vec<_>>();
    if !given.is_empty() && given.len() < specs.len() {
        return Err(Error::request("weights for some sources only; give each a weight, or none"));
    }
    match given.iter().find(|weight| !weight.is_finite() || **weight <= 0.0) {
        Some(wrong) => Err(Error::request(format!("a weight of {wrong}; weights are numbers above 0"))),
        None => Ok(()),
    }
}

/// The sources in the folder of `spec`, which share its weight by their rows.
fn members(spec: &SourceSpec, split: Split, context: usize, vocabulary: usize) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    if let Some(manifest) = Manifest::read(&spec.folder)? {
        check_manifest(&spec.folder, &manifest, vocabulary)?;
        for entry in &manifest.sources {
            let name = format!("{}/{}", spec.name, entry.name);
            members.extend(with_split(name, &spec.folder.join(&entry.name), split, context)?);
        }
    } else if spec.folder.join(Split::Train.name()).is_dir() || spec.folder.join(Split::Valid.name()).is_dir()
    {
        members.extend(with_split(spec.name.clone(), &spec.folder, split, context)?);
    } else {
        let shards = Shards::open(&spec.folder, context)?;
        let rows = share(shards.ends(), split);
        members.push(Member { name: spec.name.clone(), shards, rows, weight: 0.0 });
    }
    let rows: u64 = members.iter().map(Member::len).sum();
    for member in &mut members {
        member.weight = spec.weight.unwrap_or_default() * member.len() as f64 / rows.max(1) as f64;
    }
    Ok(members)
}

/// The model must have a row for each id the tokenizer can give; padding it to a round number does no harm.
fn check_manifest(folder: &Path, manifest: &Manifest, vocabulary: usize) -> Result<()> {
    if manifest.vocabulary_size <= vocabulary {
        return Ok(());
    }
    let expected = format!("at most {vocabulary}, the vocabulary of the model");
    Err(Error::malformed(folder, "vocabulary_size", expected, manifest.vocabulary_size))
}

/// The split of a source; a source may be too small to have one.
fn with_split(name: String, folder: &Path, split: Split, context: usize) -> Result<Option<Member>> {
    let folder = folder.join(split.name());
    if !folder.is_dir() {
        return Ok(None);
    }
    let shards = Shards::open(&folder, context)?;
    Ok(Some(Member { name, rows: 0..shards.rows(), shards, weight: 0.0 }))
}

/// The rows of `split` where nobody has split: 98 % of the shards are trained on, the rest is held out, as Acceleron
/// does it; but never none, and of a single shard the last 2 % of its rows. `ends` are the last rows of the shards.
fn share(ends: &[u64], split: Split) -> Range<u64> {
    let (shards, rows) = (ends.len(), ends.last().copied().unwrap_or_default());
    let border = match shards {
        0 | 1 => rows - rows.div_ceil(50).min(rows.saturating_sub(1)),
        _ => ends[(shards * 98 / 100).clamp(1, shards - 1) - 1],
    };
    match split {
        Split::Train => 0..border,
        Split::Valid => border..rows,
    }
}

#[cfg(test)]
mod tests;
