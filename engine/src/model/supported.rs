//! What of a model there are no kernels for on a card, by name, and for which formats it needs some.

use super::backend::Cuda;
use super::config::Layer;
use super::ffn::experts::{self, ChosenBy, Gating};
use super::{Model, ffn, mixer};
use crate::cuda::{MOST_TAPS, scan_shared};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::quant::{FORMATS, Format};

/// Shared memory that every block may have.
const MOST_SHARED: usize = 48 << 10;

impl Cuda {
    /// Whether a model has only what there are kernels for.
    ///
    /// # Errors
    /// Names what there are none for.
    pub fn supports(model: &Model) -> Result<()> {
        let config = &model.config;
        let streams = config.streams.map(|_| "several residual streams".to_owned());
        match streams.or_else(|| config.layers.iter().find_map(lacking)) {
            None => Ok(()),
            Some(what) => {
                let what = format!("{}: {what} without kernels for cards", config.architecture);
                Err(Error::unsupported(what, "compute with --device cpu"))
            }
        }
    }
}

/// What of a layer there are no kernels for.
fn lacking(layer: &Layer) -> Option<String> {
    let is_new = |experts: &experts::Shape| {
        let is_clamped = matches!(experts.activation, Activation::SwigluClamped(_));
        experts.gating == Gating::SqrtSoftplus || experts.chosen_by != ChosenBy::Scores || is_clamped
    };
    if matches!(&layer.ffn, Some(ffn::Shape::Experts(experts)) if is_new(experts)) {
        return Some("a router or an activation of experts".to_owned());
    }
    let (taps, keys) = match layer.mixer.as_ref()? {
        mixer::Shape::Compressed(_) => return Some("attention to compressed positions".to_owned()),
        mixer::Shape::Grouped(_) => return None,
        mixer::Shape::Latent(shape) => {
            return shape.indexer.as_ref().map(|_| "attention to chosen positions".to_owned());
        }
        mixer::Shape::DeltaNet(shape) => (shape.taps, shape.key_length),
        mixer::Shape::Mamba2(shape) => (shape.taps, shape.state_length),
        mixer::Shape::ShortConv(shape) => (shape.taps, 0),
    };
    if taps > MOST_TAPS {
        return Some(format!("convolutions over {taps} positions, more than {MOST_TAPS},"));
    }
    (scan_shared(keys) > MOST_SHARED).then(|| format!("a recurrence with keys of {keys} numbers"))
}

impl Model {
    /// The formats that the model's matrices have.
    pub(super) fn formats(&self) -> Vec<&'static Format> {
        let weights = &self.weights;
        let tables = [Some(&weights.token_embedding), weights.position_embedding.as_ref()];
        let dense = weights.dense().chain(tables.into_iter().flatten()).map(|matrix| matrix.format);
        let adapters = weights.is_adapted.then(|| Format::by_name("F32")).flatten();
        let all: Vec<_> = dense.chain(weights.experts.formats()).chain(adapters).collect();
        FORMATS.iter().filter(|format| all.contains(format)).collect()
    }
}
