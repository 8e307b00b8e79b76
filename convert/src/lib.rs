//! Checkpoints (safetensors, PyTorch pickles, GGUF) to GGUF. Sees the engine for formats and the container, and for the
//! forward that calibration observes.
//!
//! `checkpoint/` reads files, `hf/` knows what architectures call things, `recipe/` chooses formats, `pad.rs` widens,
//! `settle.rs` decides between both, `calibrate/` knows what a text tells, `stream.rs` writes; [`convert`] is the door.

mod calibrate;
pub mod checkpoint;
mod general;
pub mod hf;
mod json;
mod pad;
pub mod recipe;
mod report;
mod requantize;
mod settle;
mod stream;

pub use calibrate::Text;
pub use general::model_name;
pub use pad::Padding;
pub use recipe::{Override, Recipe};
pub use report::{Fallback, Planned, Progress, Report, Substitution, Suspicious};
pub use settle::{Pad, weights_without_padding};

use calibrate::Guide;
use checkpoint::Checkpoint;
use hf::Architecture;
use hf::params::{Dim, Params};
use hf::plan::Plan;
use moewe_engine::eval::Importance;
use moewe_engine::gguf::{Destination, Existing, Gguf};
use moewe_engine::model::Model;
use moewe_engine::os::files::regular;
use moewe_engine::quant::Format;
use moewe_engine::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stream::{Job, Written};

/// The version of the converter: another one may make another file of the same checkpoint.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How to convert.
#[derive(Clone, Debug)]
pub struct Options {
    /// How formats are chosen.
    pub recipe: Recipe,
    /// Tensors with a format of their own, the first pattern that fits.
    pub overrides: Vec<Override>,
    /// When hidden widths are padded.
    pub pad: Pad,
    /// How large the inputs of matrices are.
    pub importance: Option<Arc<Importance>>,
    /// Whether importance may be that of another model as far as it fits, or of some tensors only.
    pub allow_partial: bool,
    /// A text to calibrate with.
    pub calibrate: Option<Text>,
    /// Whether weights may be NaN or infinite; they are written as zeros and as the largest weights of their blocks.
    pub allow_nan: bool,
    /// Whether tokens beyond the embedding get rows, the mean of all others.
    pub add_vocabulary_rows: bool,
    /// Only plan: the report says what would be written.
    pub dry_run: bool,
    /// Whether an existing file may be replaced.
    pub force: bool,
    /// Set by anyone to stop; nothing is left behind.
    pub stop: Arc<AtomicBool>,
}

impl Options {
    /// A format for all matrices, and nothing is overwritten.
    pub fn new(format: &'static Format) -> Self {
        Self::with(Recipe::Uniform(format))
    }

    /// A recipe, and nothing is overwritten.
    pub fn with(recipe: Recipe) -> Self {
        Self {
            recipe,
            overrides: vec![],
            pad: Pad::default(),
            importance: None,
            allow_partial: false,
            calibrate: None,
            allow_nan: false,
            add_vocabulary_rows: false,
            dry_run: false,
            force: false,
            stop: Arc::default(),
        }
    }

    /// Tells `progress` how far a text is read, and whoever reads it whether to go on.
    fn heard(&self, progress: &dyn Progress) -> impl FnMut(usize, usize) -> bool {
        move |done, all| {
            progress.read(done, all);
            !self.stop.load(Ordering::Relaxed)
        }
    }
}

/// Converts a Hugging Face folder, a weight file with its config.json, a trainer's pickle or a GGUF file into one GGUF
/// file. The file appears under its name only when it is complete.
///
/// # Errors
/// Whatever is wrong with the source, by name; an `out` that exists without `force`, is no regular file, is part of the
/// source or is being written by another process; [`Error::Stopped`].
pub fn convert(src: &Path, out: &Path, options: &Options, progress: &dyn Progress) -> Result<Report> {
    if options.dry_run && options.calibrate.is_none() {
        return Ok(written(src, None, options, progress)?.0);
    }
    refuse_source(src, out)?;
    // A dry run replaces nothing: its destination is only the place beside which it works.
    let replaces = options.force || options.dry_run;
    let out = Destination::create(out, if replaces { Existing::Replace } else { Existing::Keep })?;
    let (report, out) = written(src, Some(out), options, progress)?;
    out.map_or(Ok(()), Destination::publish)?;
    Ok(report)
}

/// Refuses to write over what is being read: a GGUF file or a part of it, and the files of a checkpoint.
fn refuse_source(src: &Path, out: &Path) -> Result<()> {
    let is_read = match out.is_file() {
        false => false,
        true if is_gguf(src)? => Gguf::open(src)?.is_read_from(out),
        true => {
            let folder = |path: &Path| {
                let own = path.parent().filter(|own| !own.as_os_str().is_empty());
                own.unwrap_or(Path::new(".")).canonicalize().ok()
            };
            let source = if src.is_dir() { src.canonicalize().ok() } else { folder(src) };
            source == folder(out) && out.extension().is_none_or(|extension| extension != "gguf")
        }
    };
    match is_read {
        true => Err(Error::request(format!("{} is part of the source; name another file", out.display()))),
        false => Ok(()),
    }
}

/// A conversion but for its file's name; a dry run writes nothing.
fn written(
    src: &Path,
    out: Option<Destination>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let out = match (&options.calibrate, out) {
        (Some(text), Some(out)) => return calibrate::convert(src, text, out, options, progress),
        (_, out) => out,
    };
    let guide = Guide::with(options.importance.clone());
    if is_gguf(src)? {
        return requantize::convert(src, out, options, guide, progress);
    }
    let checkpoint = Checkpoint::open(src)?;
    hf::refuse_packed(&checkpoint.config)?;
    let architecture = Architecture::of(&checkpoint.config)?;
    let mut params = architecture.params(&checkpoint.config)?;
    let mut metadata = architecture.metadata(&params)?;
    let mut remarks = checkpoint.leftovers.clone();
    remarks.extend(architecture.remarks(&checkpoint.config)?);
    let mut plan = hf::plan::plan(architecture, &params, &checkpoint).map_err(|e| e.in_file(src))?;
    if options.add_vocabulary_rows {
        params = with_all_tokens(params, &checkpoint, &mut plan)?;
        metadata = architecture.metadata(&params)?;
    }
    general::set_name(&mut metadata, src);
    general::set_layout_version(&mut metadata);
    general::set_sampling(&mut metadata, &checkpoint)?;
    general::set_tokenizer(&mut metadata, &checkpoint, &params)?;
    remarks.extend(hf::templates::set_chat_templates(&checkpoint.folder, &mut metadata)?);
    let job = Job { options, progress, release: &|| checkpoint.release() };
    let (mut report, mut out) = job.write(metadata, &plan.outputs, guide, out).map_err(|e| e.in_file(src))?;
    out.as_mut().map_or(Ok(()), runs).map_err(|e| e.in_file(src))?;
    report.dropped = plan.dropped;
    remarks.extend(plan.remarks);
    report.remarks = remarks;
    Ok((report, out))
}

/// Gives the embedding a row for every token of the tokenizer beside it.
fn with_all_tokens(params: Params, checkpoint: &Checkpoint, plan: &mut Plan<'_>) -> Result<Params> {
    let (rows, wanted) = (params.dim(Dim::Vocab)?, hf::tokenizer::rows_needed(&checkpoint.folder)?);
    if wanted <= rows {
        return Ok(params);
    }
    hf::widen(plan, wanted);
    plan.remarks.push(format!("{} tokens got rows of their own, the mean of all others", wanted - rows));
    Ok(params.with_vocabulary(wanted))
}

/// Whether the runtime takes what was written: no file appears that cannot be opened.
fn runs(out: &mut Destination) -> Result<()> {
    let Some(path) = out.unfinished()? else { return Ok(()) };
    let gguf = Gguf::open(path)?;
    Model::bind(&gguf).map(drop).map_err(|error| {
        Error::unsupported(
            format!("this configuration makes a file that cannot run: {error}"),
            "mend config.json",
        )
    })
}

fn is_gguf(path: &Path) -> Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    regular(path)?;
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut magic = [0; 4];
    Ok(file.read_exact(&mut magic).is_ok() && magic == moewe_engine::gguf::MAGIC)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod layout_tests;

#[cfg(test)]
mod odd_tests;

#[cfg(test)]
mod refusal_tests;

#[cfg(test)]
mod pad_tests;
