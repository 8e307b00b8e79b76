//! Several residual streams (Xie et al. 2026, "mHC"): a half of a layer reads a mixture of them and adds to each; weights
//! that the streams themselves choose say how much. Sizes and tensors; what is done with them is `stream_rows.rs`.

use super::binder::{Binder, LayerBinder};
use super::keys::Keys;
use super::limit;
use super::matrix::{Linear, Norm, NormWeights};
use crate::cuda::Vector;
use crate::error::Result;

/// Residual streams of a model, side by side in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streams {
    /// How many.
    pub count: usize,
    /// How often rows and columns of what mixes streams are divided by their sums.
    pub iterations: usize,
    /// Added to weights and sums.
    pub epsilon: f32,
}

impl Streams {
    /// Most streams of a model.
    pub(super) const MOST: usize = 8;

    /// What the keys say.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let count = keys.require("hyper_connection.count", Self::MOST)?;
        let width = keys.require("embedding_length", limit::WIDTH)?;
        let stated = keys.number("embedding_length_out", Self::MOST * limit::WIDTH)?;
        if let Some(stated) = stated.filter(|stated| *stated != count * width) {
            let expected = format!("{}, {count} streams of {width}", count * width);
            return Err(keys.wrong("embedding_length_out", expected, stated));
        }
        let epsilon = keys.float("hyper_connection.epsilon")?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&epsilon) {
            return Err(keys.wrong("hyper_connection.epsilon", "between 0 and 1", epsilon));
        }
        let iterations = keys.require("hyper_connection.sinkhorn_iterations", 1 << 12)?;
        Ok(Self { count, iterations, epsilon })
    }

    /// Numbers that say how a half reads streams and adds to them: a weight of each for the input, one for the output,
    /// and one from each to each.
    pub(super) fn weights(self) -> usize {
        self.count * (self.count + 2)
    }
}

/// What chooses the weights of a half.
pub struct Mixing {
    pub(super) linear: Linear, // from all streams
    /// Added, one per weight.
    pub(super) base: Vector,
    /// Factors of the weights for the input, of those for the output, and of those between streams.
    pub(super) scale: Vector,
}

impl Mixing {
    /// Of a half of a layer.
    pub(super) fn bind(name: &str, streams: Streams, layer: &LayerBinder<'_>) -> Result<Self> {
        let weights = streams.weights();
        Ok(Self {
            linear: layer.linear(&format!("{name}_fn"), weights, streams.count * layer.width())?,
            base: layer.vector(&format!("{name}_base.weight"), &[weights])?,
            scale: layer.vector(&format!("{name}_scale.weight"), &[3])?,
        })
    }
}

/// What all halves have alike, and what makes one stream of several at the end.
pub struct Ends {
    pub(super) streams: Streams,
    pub(super) norm: NormWeights, // of all streams as one row
    pub(super) output: Mixing,
}

impl Ends {
    pub(super) fn bind(streams: Streams, kind: Norm, width: usize, binder: &Binder<'_>) -> Result<Self> {
        let all = streams.count * width;
        let output = Mixing {
            linear: binder.linear("output_hc_fn", streams.count, all)?,
            base: binder.vector("output_hc_base.weight", &[streams.count])?,
            scale: binder.vector("output_hc_scale.weight", &[1])?,
        };
        Ok(Self { streams, norm: NormWeights { kind, weight: vec![1.0; all].into(), bias: None }, output })
    }
}
