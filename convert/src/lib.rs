//! Checkpoints (safetensors, PyTorch pickles, GGUF) to GGUF. Sees the engine for formats and the container, and for the
//! forward that calibration observes.
//!
//! ```
//! use moewe_convert::{Options, convert};
//! use moewe_engine::gguf::Gguf;
//! use moewe_engine::quant::Format;
//! # let checkpoint = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/mixtral"));
//! # let folder = tempfile::tempdir()?;
//! # let target = folder.path().join("model.gguf");
//!
//! let format = Format::by_name("Q8_0").ok_or("no such format")?;
//! let report = convert(checkpoint, &target, &Options::new(format), &())?;
//! assert_eq!(Gguf::open(&target)?.file_len(), report.bytes);
//! assert!(report.bits_per_weight < 9.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`convert`] is the door. A `Source` (`from_checkpoint.rs`, `from_gguf.rs`) gives metadata and tensors on their way;
//! `merge/` makes one of several, `pad.rs` widens these, `recipe/` chooses formats, `settle.rs` decides between both, `stream.rs` writes.

pub mod adapter;
mod calibrate;
mod calibrated;
pub mod checkpoint;
mod from_checkpoint;
mod from_config;
mod from_gguf;
mod general;
pub mod hf;
mod json;
pub mod merge;
mod open;
mod options;
mod pad;
mod plain;
pub mod recipe;
mod report;
mod sample;
mod settle;
mod source;
mod stream;
mod tensor;
mod vocabulary;

pub use general::model_name;
pub use options::{Options, Pad, Text};
pub use recipe::{Override, Recipe};
pub use report::{Fallback, Padding, Planned, Progress, Report, Substitution, Suspicious};
pub use settle::weights_without_padding;

use calibrate::Guide;
use moewe_engine::Result;
use moewe_engine::gguf::{Destination, Existing};
use moewe_engine::quant::Format;
use open::{Opened, refuse_source};
use std::path::Path;
use stream::Written;

/// The version of the converter: another one may make another file of the same checkpoint.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Converts a Hugging Face folder, a weight file with its config.json, a trainer's pickle or a GGUF file into one GGUF
/// file. The file appears under its name only when it is complete.
///
/// # Errors
/// Whatever is wrong with the source, by name; an `out` that exists without `force`, is no regular file, is part of the
/// source or is being written by another process; [`moewe_engine::Error::Stopped`].
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

/// Writes the adapter in `path`, a folder of peft's or a GGUF file, as a GGUF file for `base`, in floats of `format`.
///
/// # Errors
/// An adapter that does not fit the base, or that no such file can hold; an `out` that exists and is kept.
pub fn convert_adapter(
    path: &Path,
    base: &Path,
    out: &Path,
    format: &'static Format,
    existing: Existing,
) -> Result<adapter::Written> {
    let opened = Opened::new(base)?;
    adapter::write(path, &*opened.source(&Options::new(format))?, out, format, existing)
}

/// A conversion but for its file's name; a dry run writes nothing.
fn written(
    src: &Path,
    out: Option<Destination>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let opened = Opened::new(src)?;
    match (&options.calibrate, out) {
        (Some(text), Some(out)) => calibrated::write(opened, text, out, options, progress),
        (_, out) => plain::write(&opened, Guide::with(options.importance.clone()), out, options, progress),
    }
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
