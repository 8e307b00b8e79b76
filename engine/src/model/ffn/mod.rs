//! The feed-forward half of a layer: a room for each kind and its line in the table below.

pub mod dense;
pub mod experts;

use super::backend::Backend;
use super::binder::LayerBinder;
use super::kinds::{Half, Kind, Pass, kinds};
use super::matrix::Matrix;
use super::observe::Observe;
use super::state::Memory;
use super::{Architecture, Keys};
use crate::error::Result;

kinds! {
    /// The feed-forward half, with its weights.
    Ffn {
        /// One FFN for every token.
        Dense: dense,
        /// Some of many.
        Experts: experts,
    }
}

/// An architecture's [`ffn`](Architecture::ffn): a layer has experts where its tensors say so.
pub(in crate::model) fn read(
    keys: &Keys<'_>,
    architecture: &Architecture,
    layer: usize,
) -> Result<Option<Shape>> {
    if keys.has(layer, "ffn_gate_inp.weight") {
        experts::Shape::read(keys, architecture, layer).map(|shape| Some(Shape::Experts(shape)))
    } else {
        dense::Shape::read(keys, architecture, layer).map(|shape| Some(Shape::Dense(shape)))
    }
}
