//! Tensor after tensor from any source into a GGUF file: a few million weights at a time, in parallel over rows, so
//! that memory does not grow with the model.

use crate::calibrate::{Guidance, Guide, Inputs, fit};
use crate::options::Options;
use crate::recipe::{Choice, Question, check_patterns};
use crate::report::{Padding, Planned, Progress, Report, Substitution, Suspicious};
use crate::settle::{Settled, WEIGHTS, settle};
use crate::source::Source;
use crate::tensor::{Tensor, head_of};
use moewe_engine::gguf::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Destination, FileWriter, Metadata, Writer};
use moewe_engine::quant::{Format, QuantizeRow};
use moewe_engine::simd::LANES;
use moewe_engine::{Error, Result};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Weights in memory at a time: 16 MiB of f32.
const CHUNK: u64 = 4 << 20;
/// After so many chunks the source lets go of what it has mapped: half a gigabyte of bfloat16.
const RELEASE: u64 = 64;
/// Weights per task of a worker.
const TASK: u64 = 128 << 10;

/// Where experts' tensors begin: at multiples of what reads past the page cache are made of.
const EXPERT_ALIGNMENT: u32 = 4096;

/// What is to be written, how, and who watches.
pub(crate) struct Job<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) options: &'a Options,
    pub(crate) progress: &'a dyn Progress,
}

/// What was done, and the file that has no name yet; none after a dry run.
pub(crate) type Written = (Report, Option<Destination>);

/// Whether the options are about these tensors: what can be known before work that takes hours. Names the tensors that
/// have no importance.
pub(crate) fn check(tensors: &[Tensor], options: &Options) -> Result<Vec<String>> {
    let (head, nothing) = (head_of(tensors), Guide::default());
    let questions: Vec<Question> =
        tensors.iter().map(|tensor| nothing.question(&tensor.subject, head)).collect();
    check_patterns(&questions, &options.overrides)?;
    fit::check(tensors, head, options)
}

impl Job<'_> {
    /// Writes the file and tells what was done.
    pub(crate) fn write(&self, mut guide: Guide, out: Option<Destination>) -> Result<Written> {
        let unweighed = check(self.source.tensors(), self.options)?;
        let settled = settle(self.source, self.options, &guide)?;
        let Settled { tensors, choices, .. } = &settled;
        let mut report = Report { unweighed, ..self.plan(&settled)? };
        let mut metadata = self.source.metadata().clone();
        note(&mut metadata, &report, self.options.recipe.file_type(&formats(tensors, choices)));
        if tensors.iter().any(|tensor| tensor.subject.name.contains("_exps.")) {
            align(&mut metadata)?;
        }
        let entries = tensors.iter().zip(choices).map(|(tensor, choice)| {
            let shape: Vec<u64> = tensor.subject.shape.iter().rev().copied().collect();
            (tensor.subject.name.as_str(), choice.format, shape)
        });
        let writer = Writer::new(metadata, entries.collect())?;
        report.bytes = writer.file_len();
        let Some(out) = out.filter(|_| !self.options.dry_run) else { return Ok((report, None)) };
        self.progress.begin(report.bytes);
        let mut file = writer.into(out)?;
        for (i, (tensor, choice)) in tensors.iter().zip(choices).enumerate() {
            let mut guidance = match tensor.subject.is_in(choice.format) {
                true => Guidance::default(),
                false => {
                    let inputs = Inputs::of(&tensor.subject, settled.head);
                    guide.guidance(&inputs, choice.format, &mut self.options.heard(self.progress))?
                }
            };
            report.fallbacks.append(&mut guidance.fallbacks);
            let passage = Passage { tensor, format: choice.format, guidance, job: self };
            let found = passage.run(&mut file)?;
            if found.as_ref().is_some_and(|found| found.not_finite > 0) && !self.options.allow_nan {
                drop(file);
                return Err(self.not_finite(found, &tensors[i + 1..]));
            }
            report.suspicious.extend(found);
            self.source.release();
        }
        Ok((report, Some(file.into_inner()?)))
    }

    /// The error of a source with numbers that are none: nothing more is written, but the other tensors are looked at,
    /// since who asks for the reason wants to know all of it.
    fn not_finite(&self, first: Option<Suspicious>, others: &[Tensor]) -> Error {
        let mut found: Vec<Suspicious> = first.into_iter().collect();
        for tensor in others {
            if self.options.is_stopped() {
                return Error::Stopped;
            }
            let name = &tensor.subject.name;
            self.progress.tensor(name);
            match count(tensor) {
                Ok(counts) => found.extend(counts.suspicious(name).filter(|found| found.not_finite > 0)),
                Err(error) => return error,
            }
            self.source.release();
        }
        let named = found.iter().map(|found| format!("{} ({})", found.tensor, found.not_finite));
        let what = format!("weights that are NaN or infinite: {}", fit::listed(&named.collect::<Vec<_>>()));
        Error::unsupported(what, "the source is damaged, or its training diverged; --allow-nan converts it")
    }

    fn plan(&self, settled: &Settled) -> Result<Report> {
        let Settled { tensors, choices, paddings, weights, .. } = settled;
        let planned = |(tensor, choice): (&Tensor, &Choice)| Planned {
            tensor: tensor.subject.name.clone(),
            format: choice.format.name,
            bytes: choice.format.bytes_for(tensor.subject.weights()).unwrap_or(0),
        };
        let plan: Vec<Planned> = tensors.iter().zip(choices).map(planned).collect();
        let bits = plan.iter().map(|planned| planned.bytes * 8).sum::<u64>();
        Ok(Report {
            architecture: self.source.metadata().str("general.architecture")?.unwrap_or_default().to_owned(),
            tensors: tensors.len(),
            weights: *weights,
            bits_per_weight: bits as f64 / (*weights).max(1) as f64,
            paddings: paddings.clone(),
            substitutions: substitutions(tensors, choices, &self.options.recipe.to_string()),
            plan,
            ..Report::default()
        })
    }
}

/// Lets tensors begin where reads past the page cache can: experts are read one by one where memory does not hold all.
fn align(metadata: &mut Metadata) -> Result<()> {
    let before = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    let aligned = u32::try_from(before).unwrap_or(u32::MAX).max(EXPERT_ALIGNMENT);
    metadata.set(ALIGNMENT_KEY, aligned);
    Ok(())
}

/// Writes into the file what it is: type, true bits per weight, and what is not as it was asked for.
fn note(metadata: &mut Metadata, report: &Report, file_type: Option<u32>) {
    metadata.remove("general.file_type");
    if let Some(number) = file_type {
        metadata.set("general.file_type", number);
    }
    metadata.set("moewe.bits_per_weight", report.bits_per_weight as f32);
    for padding in &report.paddings {
        metadata.set(&padding.key, padding.to as u32);
        metadata.set(WEIGHTS, report.weights);
    }
    if !report.paddings.is_empty() {
        // A file that was padded before may be padded again, for longer blocks or in another width.
        let before = metadata.get("moewe.paddings").and_then(|lines| lines.as_array()?.as_strings());
        let mut lines: Vec<String> = before.into_iter().flatten().map(str::to_owned).collect();
        lines.extend(report.paddings.iter().map(Padding::to_string));
        metadata.set("moewe.paddings", lines);
    }
    if !report.substitutions.is_empty() {
        let lines: Vec<String> = report.substitutions.iter().map(Substitution::to_string).collect();
        metadata.set("moewe.substitutions", lines);
    }
}

fn formats(tensors: &[Tensor], choices: &[Choice]) -> Vec<(u64, &'static Format)> {
    tensors.iter().zip(choices).map(|(tensor, choice)| (tensor.subject.weights(), choice.format)).collect()
}

fn substitutions(tensors: &[Tensor], choices: &[Choice], wanted: &str) -> Vec<Substitution> {
    let named = |(tensor, choice): (&Tensor, &Choice)| {
        Some(Substitution {
            tensor: tensor.subject.name.clone(),
            wanted: wanted.to_owned(),
            used: choice.format.name.to_owned(),
            because: choice.because?.to_owned(),
        })
    };
    tensors.iter().zip(choices).filter_map(named).collect()
}

/// One tensor on its way.
struct Passage<'a> {
    tensor: &'a Tensor<'a>,
    format: &'static Format,
    guidance: Guidance,
    job: &'a Job<'a>,
}

/// Counts of one tensor, added up by all workers.
#[derive(Default)]
struct Counts {
    not_finite: AtomicU64,
    out_of_range: AtomicU64,
}

impl Counts {
    fn add(&self, weights: &[f32], largest: f32) {
        let (mut not_finite, mut out_of_range) = (0, 0);
        for weight in weights {
            not_finite += !weight.is_finite() as u64;
            out_of_range += (weight.is_finite() && weight.abs() > largest) as u64;
        }
        self.not_finite.fetch_add(not_finite, Ordering::Relaxed);
        self.out_of_range.fetch_add(out_of_range, Ordering::Relaxed);
    }

    /// Weights that are not what their blocks say: scales in BF16 may lie where F16 has fewer digits, or none.
    fn add_changed(&self, weights: &[f32], blocks: &[u8], format: &Format) {
        let mut back = vec![0f32; weights.len()];
        (format.dequantize)(blocks, &mut back);
        let changed = weights.iter().zip(&back).filter(|(weight, back)| weight != back && weight.is_finite());
        self.out_of_range.fetch_add(changed.count() as u64, Ordering::Relaxed);
    }

    fn suspicious(self, tensor: &str) -> Option<Suspicious> {
        let [not_finite, out_of_range] = [self.not_finite, self.out_of_range].map(AtomicU64::into_inner);
        let tensor = tensor.to_owned();
        (not_finite + out_of_range > 0).then_some(Suspicious { tensor, not_finite, out_of_range })
    }
}

/// What a tensor holds that is no number.
fn count(tensor: &Tensor) -> Result<Counts> {
    let (counts, rows) = (Counts::default(), tensor.subject.rows());
    let step = (TASK / tensor.subject.columns()).max(1);
    (0..rows.div_ceil(step)).into_par_iter().try_for_each(|task| {
        counts.add(&tensor.read(task * step..((task + 1) * step).min(rows))?, f32::MAX);
        Ok(())
    })?;
    Ok(counts)
}

impl Passage<'_> {
    fn run(&self, file: &mut FileWriter) -> Result<Option<Suspicious>> {
        let subject = &self.tensor.subject;
        let (columns, rows) = (subject.columns(), subject.rows());
        let counts = Counts::default();
        self.job.progress.tensor(&subject.name);
        file.begin(&subject.name)?;
        let step = (CHUNK / columns).max(1);
        let row_bytes = self.row_bytes()?;
        let mut buffers = [(); 2].map(|()| vec![0u8; step.min(rows) as usize * row_bytes]);
        let (mut done, mut start) = (0, 0);
        while start < rows {
            if self.job.options.is_stopped() {
                return Err(Error::Stopped);
            }
            let end = (start + step).min(rows);
            let [ready, next] = &mut buffers;
            let next = &mut next[..(end - start) as usize * row_bytes];
            // What is ready goes to the disk meanwhile.
            let (written, converted) =
                rayon::join(|| file.append(&ready[..done]), || self.convert(start, next, row_bytes, &counts));
            written?;
            converted?;
            done = next.len();
            buffers.swap(0, 1);
            self.job.progress.advance(done as u64);
            if (start / step) % RELEASE == RELEASE - 1 {
                self.job.source.release();
            }
            start = end;
        }
        file.append(&buffers[0][..done])?;
        file.end()?;
        Ok(counts.suspicious(&subject.name))
    }

    fn row_bytes(&self) -> Result<usize> {
        let columns = self.tensor.subject.columns();
        let bytes = self.format.bytes_for(columns).and_then(|bytes| usize::try_from(bytes).ok());
        let expected = || format!("rows that blocks of {} divide", self.format.block_len);
        bytes.ok_or_else(|| {
            Error::malformed(format!("tensor {}", self.tensor.subject.name), expected(), columns)
        })
    }

    /// Rows from `first` on into `bytes`, which holds whole rows.
    fn convert(&self, first: u64, bytes: &mut [u8], row_bytes: usize, counts: &Counts) -> Result<()> {
        let Tensor { subject, contents } = self.tensor;
        let rows_per_task = (TASK / subject.columns()).max(1).next_multiple_of(LANES as u64);
        let tasks = bytes.par_chunks_mut(rows_per_task as usize * row_bytes).enumerate();
        tasks.try_for_each(|(task, bytes)| {
            let start = first + task as u64 * rows_per_task;
            let rows = start..start + (bytes.len() / row_bytes) as u64;
            let weights = self.tensor.read(rows.clone())?;
            match self.format.quantize {
                Some(quantize) if !subject.is_in(self.format) => {
                    // Scales of blocks are F16 too; weights that large are no weights.
                    let reaches_far = matches!(self.format.name, "F32" | "BF16");
                    counts.add(&weights, if reaches_far { f32::MAX } else { 65504.0 });
                    self.guided(start, &weights, bytes, quantize);
                }
                _ => {
                    counts.add(&weights, f32::MAX);
                    contents.copy(rows, bytes)?;
                    if subject.is_original {
                        counts.add_changed(&weights, bytes, self.format);
                    }
                }
            }
            Ok(())
        })
    }

    /// Quantizes rows from `first` on, with what is known of the inputs of each expert's.
    fn guided(&self, first: u64, weights: &[f32], bytes: &mut [u8], quantize: QuantizeRow) {
        let (columns, rows_per_expert) =
            (self.tensor.subject.columns(), self.tensor.subject.rows_per_expert());
        let row_bytes = bytes.len() * columns as usize / weights.len();
        let (mut weights, mut bytes, mut row) = (weights, bytes, first);
        while !weights.is_empty() {
            let expert = (row / rows_per_expert) as usize;
            let left = (weights.len() as u64 / columns).min((expert as u64 + 1) * rows_per_expert - row);
            let factors = self.guidance.factors.get(expert).and_then(Option::as_ref);
            let rows = if factors.is_some() { left.min(LANES as u64) } else { left } as usize;
            let (some, rest) = weights.split_at(rows * columns as usize);
            let (places, other) = bytes.split_at_mut(rows * row_bytes);
            match factors {
                Some(factors) => self.format.compensate(some, factors, places),
                None => {
                    let importance = self.guidance.importance.as_ref();
                    let own = importance.map(|all| &all[expert * columns as usize..][..columns as usize]);
                    quantize(some, own, places);
                }
            }
            (weights, bytes, row) = (rest, other, row + rows as u64);
        }
    }
}
