//! From files of conversations to rows in memory: lines are read once, in batches, and masked on all cores.
//!
//! What is held out for validation is chosen by content, so that a conversation stays on its side whatever else there is.
//! Ids stay in memory, five bytes per token with its mask: data for fine-tuning are small beside a model.

use super::super::holdout::{Border, Document};
use super::super::permutation::Permutation;
use super::super::progress::{Progress, Report};
use super::kinds::Kind;
use super::mask::Masked;
use super::note::Note;
use super::pack::{Row, pack};
use super::reader::{Batch, First, Reader, files};
use super::wording::Wording;
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most lines that are masked together.
const BATCH: usize = 1 << 14;
/// Tells the order of rows from other uses of a seed.
const ORDER: u64 = 0x6368_6174; // "chat"

/// What is made of which files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// JSONL files, or folders of them.
    pub data: Vec<PathBuf>,
    /// The same for validation, instead of a share of the data.
    pub validation: Vec<PathBuf>,
    /// Share of the tokens that is held out, in whole conversations, where there are no such files.
    pub holdout: f64,
    /// Most tokens of a row.
    pub context: usize,
    /// Whether a row may hold several conversations.
    pub packing: bool,
    /// Raised to end the reading.
    pub stop: Arc<AtomicBool>,
}

/// What became of the examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Examples of each kind that there are, by name.
    pub kinds: Vec<(&'static str, u64)>,
    /// How many examples each note is about.
    pub notes: Vec<(Note, u64)>,
    /// Keys of first lines that nobody reads.
    pub unread: Vec<String>,
}

/// Conversations in rows, to train on and held out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatRows {
    /// Rows to train on.
    pub train: Vec<Row>,
    /// Rows that are held out.
    pub validation: Vec<Row>,
    /// What became of the examples of all files.
    pub counts: Counts,
    /// Most tokens of a row.
    pub context: usize,
}

impl ChatRows {
    /// The row at `index` of the endless stream of rows to train on: every row once in each epoch, in an order of its own
    /// that is a function of `seed`. There is a row: [`prepare`] refuses data without one.
    pub fn row(&self, seed: u64, index: u64) -> &Row {
        let length = self.train.len() as u64;
        let order = Permutation::at(seed, &[ORDER, index / length], length);
        &self.train[order.get(index % length) as usize]
    }

    /// BLAKE3 of all rows: a run that goes on can tell whether its data are those that it began with.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for row in self.train.iter().chain(&self.validation) {
            hasher.update(&(row.segments.len() as u64).to_le_bytes());
            for length in &row.segments {
                hasher.update(&(*length as u64).to_le_bytes());
            }
            hasher.update(bytemuck::cast_slice(&row.tokens));
            hasher.update(&row.trained.iter().map(|&is_trained| u8::from(is_trained)).collect::<Vec<_>>());
        }
        hasher.update(&(self.train.len() as u64).to_le_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// Reads, masks and packs what `settings` name.
///
/// # Errors
/// Settings that cannot be met, lines that are no examples, what the template refuses, answers that do not end, and
/// data of which nothing is trained.
pub fn prepare(settings: &Settings, wording: &Wording, report: Report) -> Result<ChatRows> {
    check(settings)?;
    let mut pass = Pass { settings, wording, progress: Progress::begin(), report, counts: Counts::default() };
    let singles = pass.run(&settings.data)?;
    let (train, validation) = if settings.validation.is_empty() {
        hold_out(singles, settings.holdout)
    } else {
        (singles, pass.run(&settings.validation)?)
    };
    let mut counts = pass.counts;
    counts.notes.sort_unstable();
    if train.is_empty() {
        return Err(nothing(&counts, validation.len()));
    }
    let (context, is_packed) = (settings.context, settings.packing);
    let rows = |singles| if is_packed { pack(singles, context) } else { singles };
    Ok(ChatRows { train: rows(train), validation: rows(validation), counts, context })
}

/// An example as it is trained, and where it stands.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    pub line: u64,
    pub kind: &'static Kind,
    pub masked: Masked,
}

/// The first `count` examples, those that are left out among them.
pub(super) fn first(settings: &Settings, wording: &Wording, count: usize) -> Result<Vec<Found>> {
    check(settings)?;
    let mut found = Vec::new();
    for path in files(&settings.data)? {
        let mut reader = Reader::open(&path)?;
        while found.len() < count
            && let Some(batch) = reader.read(count - found.len())?
        {
            let all = masked(&batch, wording, settings.context)?;
            let one = |(line, masked)| Found { path: path.clone(), line, kind: batch.first.kind, masked };
            found.extend(all.into_iter().map(one));
        }
    }
    Ok(found)
}

/// All examples of a batch with the numbers of their lines.
fn masked(batch: &Batch, wording: &Wording, context: usize) -> Result<Vec<(u64, Masked)>> {
    if batch.first.kind.is_chat {
        wording.check_template()?;
    }
    let one = |(number, line): (u64, &str)| {
        let example = batch.parse(number, line)?;
        let mut masked = wording.mask(&example).map_err(|error| batch.at(number, &error))?;
        masked.cut(context);
        Ok((number, masked))
    };
    let all: Vec<Result<_>> = batch.numbered().into_par_iter().map(one).collect();
    all.into_iter().collect() // the error of the first line that has one
}

fn check(settings: &Settings) -> Result<()> {
    if settings.context < 2 {
        let why = "the context is 2 or more, as the first token of a row is never predicted";
        return Err(Error::request(format!("rows of {} tokens; {why}", settings.context)));
    }
    if !(0.0..1.0).contains(&settings.holdout) {
        let found = settings.holdout;
        return Err(Error::request(format!("--holdout {found}: expected a share of 0 or more and below 1")));
    }
    Ok(())
}

/// The error where nothing is left to train on.
fn nothing(counts: &Counts, held_out: usize) -> Error {
    let examples: u64 = counts.kinds.iter().map(|(_, count)| count).sum();
    let notes = counts.notes.iter().filter(|(note, _)| note.is_left_out());
    let notes = notes.map(|(note, count)| format!("; {count} {}", note.text())).collect::<String>();
    let held_out = if held_out > 0 { format!("; {held_out} held out") } else { String::new() };
    Error::request(format!(
        "no example has a token to train on ({examples} examples{notes}{held_out}); --show-mask 3 shows how they are read"
    ))
}

/// Parts conversations into those to train on and those that are held out.
fn hold_out(singles: Vec<Row>, share: f64) -> (Vec<Row>, Vec<Row>) {
    let document = |row: &Row| {
        let hash = blake3::hash(bytemuck::cast_slice(&row.tokens));
        let hash = hash.as_bytes().iter().take(8).fold(0, |bits, &byte| bits << 8 | u64::from(byte));
        Document { hash, tokens: row.tokens.len() as u32, bytes: 0 }
    };
    let documents: Vec<Document> = singles.par_iter().map(document).collect();
    let border = Border::find(&documents, share, usize::MAX); // so that none is cut
    let (mut train, mut validation) = (Vec::with_capacity(singles.len()), vec![]);
    for (number, (row, document)) in singles.into_iter().zip(&documents).enumerate() {
        if border.held_out(number, document) > 0 { validation.push(row) } else { train.push(row) }
    }
    // Of a single conversation there is no share.
    if train.is_empty() { (validation, train) } else { (train, validation) }
}

/// What goes through files.
struct Pass<'a> {
    settings: &'a Settings,
    wording: &'a Wording,
    progress: Progress,
    report: Report<'a>,
    counts: Counts,
}

impl Pass<'_> {
    /// The examples of all files that are not left out.
    fn run(&mut self, paths: &[PathBuf]) -> Result<Vec<Row>> {
        let mut singles = Vec::new();
        for path in files(paths)? {
            self.progress.source = path.display().to_string();
            let mut reader = Reader::open(&path)?;
            let mut next = reader.read(BATCH)?;
            if let Some(batch) = &next {
                self.note_unread(&batch.first);
            }
            while let Some(batch) = next.take() {
                if self.settings.stop.load(Ordering::Relaxed) {
                    return Err(moewe_engine::Error::Stopped.into());
                }
                self.progress.advance(&batch.lines);
                let (wording, context) = (self.wording, self.settings.context);
                let (read, all) = rayon::join(|| reader.read(BATCH), || masked(&batch, wording, context));
                // What is wrong with an earlier line is said first.
                let kept = all?.into_iter().filter_map(|(_, masked)| self.count(batch.first.kind, masked));
                singles.extend(kept);
                next = read?;
                (self.report)(&self.progress);
            }
        }
        Ok(singles)
    }

    /// Counts an example; its tokens where it is not left out.
    fn count(&mut self, kind: &Kind, masked: Masked) -> Option<Row> {
        add(&mut self.counts.kinds, kind.name);
        masked.notes.iter().for_each(|note| add(&mut self.counts.notes, *note));
        let is_left_out = masked.is_left_out();
        (!is_left_out).then(|| {
            let mut row = Row::single(masked.encoded.tokens, masked.trained);
            row.shrink();
            row
        })
    }

    fn note_unread(&mut self, first: &First) {
        let new = first.unread.iter().filter(|key| !self.counts.unread.contains(key));
        let new: Vec<String> = new.cloned().collect();
        self.counts.unread.extend(new);
    }
}

fn add<T: PartialEq>(counts: &mut Vec<(T, u64)>, what: T) {
    match counts.iter_mut().find(|(known, _)| *known == what) {
        Some((_, count)) => *count += 1,
        None => counts.push((what, 1)),
    }
}
