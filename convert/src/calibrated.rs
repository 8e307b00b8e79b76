//! The calibrated way: the model runs over a text, which tells what its matrices' inputs are like, and is written with
//! that knowledge. What is no GGUF file goes the plain way into one first, beside its target and for the time being.

use crate::calibrate::{Calibration, Guide, sensitivity};
use crate::from_gguf::FromGguf;
use crate::open::{Files, Opened};
use crate::options::{Options, Text};
use crate::plain;
use crate::recipe::{Recipe, by_name};
use crate::report::{Progress, Report};
use crate::source::Source;
use crate::stream::{Written, check};
use crate::tensor::Tensor;
use moewe_engine::Result;
use moewe_engine::eval::{Importance, chunks_of};
use moewe_engine::gguf::{Destination, Hidden};
use moewe_engine::os::memory;
use moewe_engine::quant::{Format, Kind};
use moewe_engine::session::{self, Engine, MemoryLimit};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of free memory for the model that the text runs through; a quarter of it is for what that tells.
const SHARE: f64 = 0.6;
/// Bytes for what the text tells, without knowledge of the machine.
const BYTES: u64 = 1 << 30;

/// Writes what was opened, calibrated with `text`, into a file that has no name yet.
pub(crate) fn write(
    opened: Opened,
    text: &Text,
    out: Destination,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let base = match &opened.files {
        Files::Gguf(_) if options.adapters.is_empty() => Base::Own(opened.path),
        _ => Base::made(&*opened.source(options)?, &out, options)?,
    };
    write_over(base, text, out, options, progress)
}

/// The same of any source.
pub(crate) fn write_source(
    source: &dyn Source,
    text: &Text,
    out: Destination,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    write_over(Base::made(source, &out, options)?, text, out, options, progress)
}

fn write_over(
    base: Base,
    text: &Text,
    out: Destination,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let bytes = memory::available().map_or(BYTES, |bytes| bytes / 4);
    let memory = MemoryLimit::share_of_known(SHARE);
    let engine_options =
        session::Options { context: Some(text.context), all_logits: true, memory, ..Default::default() };
    let engine = Engine::open(base.path(), engine_options)?;
    let source = FromGguf::new(engine.gguf());
    // Before the text is read, not after.
    check(source.tensors(), options)?;
    let chunks = chunks_of(&engine, &text.text, text.context)?;
    let mut heard = options.heard(progress);
    let importance = match &options.importance {
        Some(importance) => importance.clone(),
        None => Arc::new(Importance::measure(&engine, &chunks, &mut heard)?),
    };
    let mut guide = Guide::with(Some(importance));
    if matches!(options.recipe, Recipe::Bits(_)) {
        guide.sensitivities =
            sensitivity::measure(&engine, source.tensors(), &chunks, bytes, &guide, &mut heard)?;
    }
    guide.calibration = Some(Calibration::new(engine, chunks, bytes));
    // Opened anew: what is written is let go of, while the engine computes with all of it.
    let (mut report, out) = plain::write(&Opened::new(base.path())?, guide, Some(out), options, progress)?;
    base.tell(&mut report);
    Ok((report, out))
}

/// The file that is computed with.
enum Base {
    Own(PathBuf),
    /// With the tensors of the source that are not in it, and what is odd about the source.
    Made(Hidden, Vec<String>, Vec<String>),
}

impl Base {
    fn made(source: &dyn Source, out: &Destination, options: &Options) -> Result<Self> {
        let (allow_nan, stop) = (options.allow_nan, options.stop.clone());
        let plain = Options { allow_nan, stop, ..Options::with(Recipe::Uniform(faithful(source.tensors()))) };
        let (report, made) =
            plain::write_source(source, Guide::default(), Some(out.scratch()?), &plain, &())?;
        let Some(made) = made else { unreachable!("this is no dry run") };
        Ok(Self::Made(made.keep_hidden()?, report.dropped, report.remarks))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(path) => path,
            Self::Made(made, ..) => made.path(),
        }
    }

    /// Adds what only the source could tell.
    fn tell(self, report: &mut Report) {
        if let Self::Made(_, dropped, remarks) = self {
            (report.dropped, report.remarks) = (dropped, remarks);
        }
    }
}

/// A format that holds all weights as they are, or as good as.
fn faithful(tensors: &[Tensor]) -> &'static Format {
    let matrices = tensors.iter().map(|tensor| &tensor.subject).filter(|subject| subject.shape.len() > 1);
    let mut floats = matrices.map(|subject| subject.float.filter(|float| float.kind == Kind::Float));
    let first = floats.next().flatten().unwrap_or_else(|| by_name("F32"));
    if floats.all(|float| float == Some(first)) { first } else { by_name("F32") }
}
