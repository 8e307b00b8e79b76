//! Second moments of the inputs of a model's matrices, measured for as many layers at a time as memory allows, just
//! before these are written: the text is read once per such group of layers.

use super::factor::{Prior, factors};
use super::inputs::Inputs;
use crate::report::Fallback;
use moewe_engine::Result;
use moewe_engine::eval::moments::{self, Key, Moments, Sum};
use moewe_engine::gguf::TensorName;
use moewe_engine::quant::Factor;
use moewe_engine::session::Engine;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// An expert that saw fewer tokens than its columns divided by this is not calibrated.
const FEW: usize = 8;

/// What is known of one matrix.
enum Known {
    Factors(Arc<Vec<Factor>>),
    /// It saw only so many rows.
    Few(usize),
}

/// What a text tells of one tensor.
#[derive(Default)]
pub(super) struct Told {
    /// How to make up for errors, by expert; `None` for one that saw too little.
    pub(super) factors: Vec<Option<Arc<Vec<Factor>>>>,
    /// Experts that saw too little.
    pub(super) fallbacks: Vec<Fallback>,
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
    /// Nothing is measured yet; moments may take `bytes` at a time.
    pub(crate) fn new(engine: Engine, chunks: Vec<Vec<u32>>, bytes: u64) -> Self {
        Self { engine, chunks, bytes, layers: 0..0, head: false, known: HashMap::new() }
    }

    /// What it tells of a tensor; measures it first where that is still to be done.
    pub(super) fn of(
        &mut self,
        inputs: &Inputs,
        heard: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Told> {
        let mut told = Told::default();
        let name = inputs.observed().strip_suffix(".weight").unwrap_or(inputs.observed());
        let layer = TensorName::of(name).layer;
        if layer.is_some_and(|layer| !self.layers.contains(&layer)) || name == "output" && !self.head {
            self.measure(layer, heard)?;
        }
        // Experts' gate and up in one tensor read what they would read apart.
        let reader = moments::reader_of(&name.replace(".ffn_gate_up_exps", ".ffn_up_exps"));
        for expert in 0..inputs.experts {
            let key = (reader.clone(), (inputs.experts > 1).then_some(expert as u32));
            let (factors, rows) = match self.known.get(&key) {
                Some(Known::Factors(factors)) => (Some(widened(factors, inputs)), 0),
                Some(Known::Few(rows)) => (None, *rows),
                None => (None, 0),
            };
            if factors.is_none() && layer.is_some() {
                told.fallbacks.push(Fallback { tensor: inputs.name.to_owned(), expert, rows });
            }
            told.factors.push(factors);
        }
        Ok(told)
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
            if let Some(layer) = TensorName::of(name).layer.filter(|_| moments::reader_of(name) == name) {
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
pub(super) fn fitting(sizes: impl Iterator<Item = u64>, bytes: u64) -> usize {
    let sums = sizes.scan(0u64, |sum, size| {
        *sum = sum.saturating_add(size);
        Some(*sum)
    });
    sums.take_while(|&sum| sum <= bytes).count().max(1)
}

/// Factors for a tensor in the file: zeros that pad it stand behind its last span.
fn widened(factors: &Arc<Vec<Factor>>, inputs: &Inputs) -> Arc<Vec<Factor>> {
    let more = inputs.padded_columns - inputs.columns;
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
