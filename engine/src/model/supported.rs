//! What of a model there are no kernels for on a card, by name.

use super::backend::{Cuda, without_kernels};
use super::config::Layer;
use super::mixer::grouped::Values;
use super::moe::Inner;
use super::{Model, ffn, mixer};
use crate::error::Result;
use crate::ops::Activation;

impl Cuda {
    /// Whether a model has only what there are kernels for.
    ///
    /// # Errors
    /// Names what there are none for.
    pub fn supports(model: &Model) -> Result<()> {
        let config = &model.config;
        let adapters = model.weights.is_adapted.then_some("adapters");
        let lacking = config.layers.iter().find_map(lacking);
        let lacking = lacking.or(config.logit_cap.map(|_| "a bound of logits")).or(adapters);
        match lacking {
            None => Ok(()),
            Some(what) => Err(without_kernels(format!("{}: {what}", config.architecture))),
        }
    }
}

/// What of a layer there are no kernels for.
fn lacking(layer: &Layer) -> Option<&'static str> {
    match &layer.mixer {
        Some(mixer::Shape::Latent(_)) => {}
        Some(mixer::Shape::Grouped(shape)) if shape.gated => return Some("gated attention"),
        Some(mixer::Shape::Grouped(shape)) if shape.values == Values::Own => {}
        Some(mixer::Shape::Grouped(_)) => return Some("normed values"),
        Some(_) => return Some("a mixer"),
        None => return Some("a layer of one half"),
    }
    let activation = match &layer.ffn {
        Some(ffn::Shape::Dense(shape)) => shape.activation,
        Some(ffn::Shape::Experts(shape)) if shape.inner == Inner::Same => shape.activation,
        Some(ffn::Shape::Experts(_)) => return Some("experts with an input of their own"),
        None => return Some("a layer of one half"),
    };
    (activation == Activation::ReluSquared).then_some("squares of ReLU")
}
