//! The short convolution that recurrent mixers have: its weights, turned for the kernels.

use super::super::binder::LayerBinder;
use super::super::step::{ConvStep, Row};
use crate::cuda::Vector;
use crate::error::Result;
use crate::ops::Activation;

/// A convolution's tensors.
pub(super) struct Convolution {
    weights: Vector,      // (taps, channels)
    bias: Option<Vector>, // (channels)
    channels: usize,
}

impl Convolution {
    /// The tensor `name.weight`, which a file has by channel, and `name.bias` where there is one.
    pub(super) fn bind(
        name: &str,
        (taps, channels): (usize, usize),
        layer: &LayerBinder<'_>,
    ) -> Result<Self> {
        let by_channel = layer.vector(&format!("{name}.weight"), &[taps, channels])?;
        let by_tap = |i: usize| by_channel[i % channels * taps + i / channels];
        Ok(Self {
            weights: (0..taps * channels).map(by_tap).collect::<Vec<f32>>().into(),
            bias: layer.optional_vector(&format!("{name}.bias"), channels)?,
            channels,
        })
    }

    /// Its step over channels from column `at` on.
    pub(super) fn step<'a>(
        &'a self,
        layer: usize,
        rows: &'a [Row],
        at: usize,
        activation: Option<Activation>,
    ) -> ConvStep<'a> {
        let Self { weights, bias, channels } = self;
        ConvStep { layer, rows, at, channels: *channels, weights, bias: bias.as_ref(), activation }
    }
}
