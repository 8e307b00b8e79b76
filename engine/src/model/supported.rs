//! What of a model there are no kernels for on a card, by name, and for which formats it needs some.

use super::backend::Cuda;
use super::config::Layer;
use super::{Model, mixer};
use crate::cuda::{MOST_TAPS, scan_shared};
use crate::error::{Error, Result};
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
        match config.layers.iter().find_map(lacking) {
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
    let (taps, keys) = match layer.mixer.as_ref()? {
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
