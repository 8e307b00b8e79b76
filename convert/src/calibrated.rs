//! The calibrated way: the model runs over a text, which tells what its matrices' inputs are like, and is written with
//! that knowledge. What is no GGUF file goes the plain way into one first, beside its target and for the time being.

use crate::calibrate::{Calibration, Guide, sensitivity};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::from_gguf::FromGguf;
use crate::open::{Files, Opened};
use crate::options::{Options, Text};
use crate::plain;
use crate::recipe::{Recipe, by_name};
use crate::report::{Progress, Report};
use crate::source::Source;
use crate::stream::{Written, check};
use moewe_engine::Result;
use moewe_engine::eval::{Importance, chunks_of};
use moewe_engine::gguf::{Destination, Hidden};
use moewe_engine::os::memory;
use moewe_engine::quant::Format;
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
    let base = Base::of(opened, &out, options)?;
    let bytes = memory::available().map_or(BYTES, |bytes| bytes / 4);
    let memory = Some(MemoryLimit::Share(SHARE));
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
    let (report, out) = plain::write(&Opened::new(base.path())?, guide, Some(out), options, progress)?;
    Ok((Report { dropped: base.dropped(), ..report }, out))
}

/// The file that is computed with.
enum Base {
    Own(PathBuf),
    /// With the tensors of the source that are not in it.
    Made(Hidden, Vec<String>),
}

impl Base {
    fn of(opened: Opened, out: &Destination, options: &Options) -> Result<Self> {
        let format = match &opened.files {
            Files::Gguf(_) => return Ok(Self::Own(opened.path)),
            Files::Checkpoint(checkpoint) => faithful(checkpoint),
        };
        let (allow_nan, stop) = (options.allow_nan, options.stop.clone());
        let plain = Options { allow_nan, stop, ..Options::with(Recipe::Uniform(format)) };
        let (report, made) = plain::write(&opened, Guide::default(), Some(out.scratch()?), &plain, &())?;
        let Some(made) = made else { unreachable!("this is no dry run") };
        Ok(Self::Made(made.keep_hidden()?, report.dropped))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(path) => path,
            Self::Made(made, _) => made.path(),
        }
    }

    fn dropped(&self) -> Vec<String> {
        match self {
            Self::Own(_) => vec![],
            Self::Made(_, dropped) => dropped.clone(),
        }
    }
}

/// A format that holds all weights as they are, or as good as.
fn faithful(checkpoint: &Checkpoint) -> &'static Format {
    let of = |dtype: Dtype| match dtype {
        Dtype::F32 | Dtype::F64 => "F32",
        Dtype::F16 => "F16",
        _ => "BF16",
    };
    let mut names = checkpoint.tensors().iter().map(|tensor| of(tensor.dtype));
    let first = names.next().unwrap_or("F32");
    by_name(if names.all(|name| name == first) { first } else { "F32" })
}
