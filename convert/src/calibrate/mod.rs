//! Calibration: quantization that knows what a text sends through every matrix, expert by expert.
//!
//! Sensitivities say where a budget of bits is spent (`sensitivity.rs`). Importance weighs the search for scales;
//! second moments of the inputs let it make up for its own errors (`factor.rs`; the algorithm is the engine's
//! `quant::compensate`). Moments are measured for as many layers at a time as memory allows, just before these are
//! written, so the text is read once per such group of layers.

mod factor;
pub(crate) mod fit;
mod sensitivity;

use crate::checkpoint::{Checkpoint, Dtype};
use crate::recipe::by_name;
use crate::report::{Fallback, Progress, Report};
use crate::requantize::Stored;
use crate::stream::{Rows, Written, check};
use crate::{Options, Recipe, is_gguf, requantize};
use factor::{Prior, factors};
use moewe_engine::Result;
use moewe_engine::eval::moments::{self, Key, Moments, Sum};
use moewe_engine::eval::{Importance, chunks_of};
use moewe_engine::gguf::{Destination, Hidden};
use moewe_engine::os::memory;
use moewe_engine::quant::{Factor, Format};
use moewe_engine::session::{self, Engine, MemoryLimit};
use rayon::prelude::*;
use sensitivity::Sensitivities;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A text to calibrate with.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its contents.
    pub text: String,
    /// Tokens that are computed together.
    pub context: usize,
}

/// An expert that saw fewer tokens than its columns divided by this is not calibrated.
const FEW: usize = 8;
/// Of free memory for the model that the text runs through; a quarter of it is for what that tells.
const SHARE: f64 = 0.6;
/// Bytes for what the text tells, without knowledge of the machine.
const BYTES: u64 = 1 << 30;

/// Converts with calibration: a source that is no GGUF file becomes one first, beside `out` and for the time being.
pub(crate) fn convert(
    src: &Path,
    text: &Text,
    out: Destination,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Written> {
    let base = Base::of(src, &out, options)?;
    let bytes = memory::available().map_or(BYTES, |bytes| bytes / 4);
    let memory = Some(MemoryLimit::Share(SHARE));
    let engine_options =
        session::Options { context: Some(text.context), all_logits: true, memory, ..Default::default() };
    let engine = Engine::open(base.path(), engine_options)?;
    // Before the text is read, not after.
    let stored = |tensor| Stored::of(engine.gguf(), tensor);
    check(&engine.gguf().tensors().iter().map(stored).collect::<Vec<_>>(), options)?;
    let chunks = chunks_of(&engine, &text.text, text.context)?;
    let mut heard = options.heard(progress);
    let importance = match &options.importance {
        Some(importance) => importance.clone(),
        None => Arc::new(Importance::measure(&engine, &chunks, &mut heard)?),
    };
    let mut guide = Guide::with(Some(importance));
    if matches!(options.recipe, Recipe::Bits(_)) {
        guide.sensitivities = sensitivity::measure(&engine, &chunks, bytes, &guide, &mut heard)?;
    }
    guide.calibration =
        Some(Calibration { engine, chunks, bytes, layers: 0..0, head: false, known: HashMap::new() });
    let (report, out) = requantize::convert(base.path(), Some(out), options, guide, progress)?;
    Ok((Report { dropped: base.dropped(), ..report }, out))
}

/// The file that is computed with.
enum Base {
    Own(PathBuf),
    /// With the tensors of the source that are not in it.
    Made(Hidden, Vec<String>),
}

impl Base {
    fn of(src: &Path, out: &Destination, options: &Options) -> Result<Self> {
        if is_gguf(src)? {
            return Ok(Self::Own(src.to_owned()));
        }
        let format = faithful(&Checkpoint::open(src)?);
        let (allow_nan, stop) = (options.allow_nan, options.stop.clone());
        let plain = Options { allow_nan, stop, ..Options::with(Recipe::Uniform(format)) };
        let (report, made) = crate::written(src, Some(out.scratch()?), &plain, &())?;
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

/// What a conversion knows of the model at work: nothing, importance, or all that a text tells.
#[derive(Default)]
pub(crate) struct Guide {
    importance: Option<Arc<Importance>>,
    calibration: Option<Calibration>,
    sensitivities: Sensitivities,
}

/// What it knows of one tensor's.
#[derive(Default)]
pub(crate) struct Guidance {
    /// Mean squares of the inputs, `(experts, padded columns)`.
    pub(crate) importance: Option<Vec<f32>>,
    /// How to make up for errors, by expert; `None` for one that saw too little.
    pub(crate) factors: Vec<Option<Arc<Vec<Factor>>>>,
    /// Experts that saw too little.
    pub(crate) fallbacks: Vec<Fallback>,
}

/// A tensor as a guide sees it.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) is_head: bool,
    pub(crate) experts: usize,
    /// Columns of the source.
    pub(crate) columns: usize,
    /// Columns in the file, those beyond the source's zero.
    pub(crate) padded_columns: usize,
}

impl<'a> Subject<'a> {
    pub(crate) fn of<R: Rows>(tensor: &'a R, head: &str) -> Self {
        let (name, columns) = (tensor.name(), tensor.columns() as usize);
        let experts = tensor.shape().iter().rev().skip(2).product::<u64>() as usize;
        Self { name, is_head: name == head, experts, columns, padded_columns: columns }
    }

    /// The tensor whose inputs are observed: a head that shares the embedding's weights has a name of its own.
    fn observed(&self) -> &'a str {
        if self.is_head { "output.weight" } else { self.name }
    }
}

impl Guide {
    /// What is known without a text to read.
    pub(crate) fn with(importance: Option<Arc<Importance>>) -> Self {
        Self { importance, ..Self::default() }
    }

    /// Whether it knows how much inputs matter.
    pub(crate) fn has_importance(&self) -> bool {
        self.importance.is_some()
    }

    /// What an error in a tensor costs, where that was measured.
    pub(crate) fn matters(&self, tensor: &str) -> Option<f64> {
        self.sensitivities.get(tensor).copied()
    }

    /// Mean squares of a tensor's inputs, `(experts, padded columns)`.
    pub(crate) fn importance(&self, subject: &Subject) -> Option<Vec<f32>> {
        let Subject { experts, columns, padded_columns, .. } = *subject;
        let known = self.importance.as_ref()?.of(subject.observed(), experts, columns)?;
        let zeros = vec![0.0; padded_columns - columns];
        Some(known.chunks_exact(columns).flat_map(|row| row.iter().chain(&zeros)).copied().collect())
    }

    /// Everything for a tensor that is to be written in `format`.
    pub(crate) fn guidance(
        &mut self,
        subject: &Subject,
        format: &Format,
        heard: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Guidance> {
        let mut guidance = Guidance { importance: self.importance(subject), ..Guidance::default() };
        if let Some(calibration) = &mut self.calibration
            && format.compensates()
        {
            calibration.guide(subject, &mut guidance, heard)?;
        }
        Ok(guidance)
    }
}

/// What is known of one matrix.
enum Known {
    Factors(Arc<Vec<Factor>>),
    /// It saw only so many rows.
    Few(usize),
}

/// A model, a text, and what has been measured of some layers.
pub(crate) struct Calibration {
    engine: Engine,
    chunks: Vec<Vec<u32>>,
    bytes: u64, // for moments at a time
    layers: Range<usize>,
    head: bool,
    known: HashMap<Key, Known>,
}

impl Calibration {
    fn guide(
        &mut self,
        subject: &Subject,
        guidance: &mut Guidance,
        heard: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<()> {
        let name = subject.observed().strip_suffix(".weight").unwrap_or(subject.observed());
        let layer = crate::recipe::layer_of(name);
        if layer.is_some_and(|layer| !self.layers.contains(&layer)) || name == "output" && !self.head {
            self.measure(layer, heard)?;
        }
        // Experts' gate and up in one tensor read what they would read apart.
        let reader = moments::reader_of(&name.replace(".ffn_gate_up_exps", ".ffn_up_exps"));
        for expert in 0..subject.experts {
            let key = (reader.clone(), (subject.experts > 1).then_some(expert as u32));
            let (factors, rows) = match self.known.get(&key) {
                Some(Known::Factors(factors)) => (Some(widened(factors, subject)), 0),
                Some(Known::Few(rows)) => (None, *rows),
                None => (None, 0),
            };
            if factors.is_none() && layer.is_some() {
                guidance.fallbacks.push(Fallback { tensor: subject.name.to_owned(), expert, rows });
            }
            guidance.factors.push(factors);
        }
        Ok(())
    }

    /// Measures as many layers as memory allows from one on, or from the first on with the head.
    fn measure(&mut self, layer: Option<usize>, heard: &mut dyn FnMut(usize, usize) -> bool) -> Result<()> {
        self.known.clear();
        let first = layer.unwrap_or(0);
        self.head = first == 0;
        self.layers = first..first + self.layers_at_once(first);
        let moments = Moments::measure(&self.engine, &self.chunks, self.layers.clone(), self.head, heard)?;
        self.known = known(moments);
        Ok(())
    }

    /// Sums and factors stand in memory together, once in f32 and once more while they are made.
    fn layers_at_once(&self, first: usize) -> usize {
        let mut bytes = HashMap::<usize, u64>::new();
        for tensor in self.engine.gguf().tensors().iter().filter(|tensor| tensor.shape.len() > 1) {
            let name = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            if let Some(layer) = crate::recipe::layer_of(name).filter(|_| moments::reader_of(name) == name) {
                let experts: u64 = tensor.shape[2..].iter().product();
                *bytes.entry(layer).or_default() +=
                    2 * experts * moments::bytes_of(tensor.shape[0] as usize) as u64;
            }
        }
        let layers = first..self.engine.config().layers.len();
        fitting(layers.map(|layer| bytes.get(&layer).copied().unwrap_or(0)), self.bytes)
    }
}

/// How many from the first on fit into `bytes`; one in any case.
fn fitting(sizes: impl Iterator<Item = u64>, bytes: u64) -> usize {
    let sums = sizes.scan(0u64, |sum, size| {
        *sum = sum.saturating_add(size);
        Some(*sum)
    });
    sums.take_while(|&sum| sum <= bytes).count().max(1)
}

/// Factors for a tensor in the file: zeros that pad it stand behind its last span.
fn widened(factors: &Arc<Vec<Factor>>, subject: &Subject) -> Arc<Vec<Factor>> {
    let more = subject.padded_columns - subject.columns;
    let Some((last, before)) = factors.split_last().filter(|_| more > 0) else { return factors.clone() };
    Arc::new(before.iter().cloned().chain([last.widened(more)]).collect())
}

/// Factors of all that was measured.
fn known(moments: Moments) -> HashMap<Key, Known> {
    let sums = moments.into_sums();
    // What an expert's own hidden units are like, its neighbours cannot tell.
    let shares_inputs = |reader: &&String| reader.ends_with("_up_exps");
    let readers: BTreeSet<&String> = sums.keys().map(|(reader, _)| reader).filter(shares_inputs).collect();
    let prior = |reader| {
        let experts = sums.iter().filter(|((other, _), _)| other == reader).map(|(_, sum)| sum);
        Some((reader, Prior::of(experts)?))
    };
    let priors: HashMap<&String, Prior> = readers.into_par_iter().filter_map(prior).collect();
    let known = |(key, sum): (&Key, &Sum)| {
        let known = match sum.rows * FEW >= sum.columns {
            true => Known::Factors(Arc::new(factors(sum, priors.get(&key.0)))),
            false => Known::Few(sum.rows),
        };
        (key.clone(), known)
    };
    sums.par_iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fit_as_there_is_room_for_but_one_in_any_case() {
        for (bytes, expected) in [(0, 1), (4, 1), (9, 2), (10, 3), (u64::MAX, 4)] {
            assert_eq!(fitting([4, 5, 1, u64::MAX].into_iter(), bytes), expected, "{bytes}");
        }
    }
}
