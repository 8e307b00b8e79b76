//! Convolutions and recurrences on a card.

use super::super::super::step::{ConvStep, Factor, KeyHeads, ScanStep, Update};
use super::Cuda;
use crate::cuda::{ConvolutionAt, Rows, ScanAt, kind_of};

impl Cuda {
    pub(super) fn convolve_rows(&self, step: &ConvStep<'_>, x: &mut Rows) {
        let by = ConvolutionAt {
            layer: step.layer,
            at: step.at,
            channels: step.channels,
            taps: step.taps(),
            weights: self.vector(Some(step.weights)),
            bias: self.vector(step.bias),
            activation: step.activation.map_or(-1, kind_of),
        };
        self.kernels.convolve(x, by, self.step_at());
    }

    pub(super) fn scan_rows(&self, step: &ScanStep<'_>, x: &Rows, out: &mut Rows) {
        self.kernels.resize(out, x.rows(), step.values.count * step.values.width);
        let (strengths, skip) = match step.update {
            Update::Delta { strengths } => (strengths as i32, None),
            Update::Whole { skip } => (-1, Some(skip)),
        };
        let by = ScanAt {
            layer: step.layer,
            state_at: step.state_at,
            queries: step.queries.into(),
            keys: step.keys.into(),
            values: step.values.into(),
            sharing: match step.key_heads {
                KeyHeads::Neighbours => step.values.count / step.keys.count,
                KeyHeads::Turns => 0,
            },
            steps: step.steps,
            step_bias: self.vector(Some(step.step_bias)),
            rate: self.vector(Some(step.rate)),
            strengths,
            skip: self.vector(skip),
        };
        self.kernels.scan(x, by, self.step_at(), out);
    }
}

/// The kernels' number of a factor.
pub(super) fn number_of(factor: Factor) -> i32 {
    match factor {
        Factor::Itself => 0,
        Factor::Sigmoid => 1,
        Factor::Silu => 2,
    }
}
