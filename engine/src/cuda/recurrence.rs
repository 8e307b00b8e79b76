//! Starts the kernels that carry a state along sequences: convolutions and recurrences.

use super::arguments::{Argument, Pieces, StepAt};
use super::kernels::Kernels;
use super::launch::arguments;
use super::rows::Rows;
use super::written::What;

/// Inputs that a sum of a convolution takes at most: `MOST_TAPS` in the source.
pub const MOST_TAPS: usize = 8;
/// Columns of a state that lie together.
const COLUMNS: usize = 32;
/// Channels of a block.
const CHANNELS: usize = 128;

/// Bytes of shared memory of a recurrence: `SCAN_SHARED` in the source.
pub const fn scan_shared(key_length: usize) -> usize {
    (key_length + 12) * COLUMNS * 4
}

/// A convolution's numbers on the device.
#[derive(Clone, Copy)]
pub struct ConvolutionAt {
    /// Which layer of the states.
    pub layer: usize,
    /// Column of the first channel.
    pub at: usize,
    /// Channels.
    pub channels: usize,
    /// Inputs that a sum takes.
    pub taps: usize,
    /// `(taps, channels)`.
    pub weights: u64,
    /// `(channels)`, or 0.
    pub bias: u64,
    /// On the sums: the kernels' number of an activation, -1 for none.
    pub activation: i32,
}

/// A recurrence's numbers on the device.
#[derive(Clone, Copy)]
pub struct ScanAt {
    /// Which layer of the states.
    pub layer: usize,
    /// Numbers of the layer's state before those of this.
    pub state_at: usize,
    /// Queries.
    pub queries: Pieces,
    /// Keys, as many and as wide.
    pub keys: Pieces,
    /// Values.
    pub values: Pieces,
    /// Neighbouring value heads with a key head in common; 0 where every so manieth has the same.
    pub sharing: usize,
    /// Column of the first head's step.
    pub steps: usize,
    /// One per value head.
    pub step_bias: u64,
    /// One per value head.
    pub rate: u64,
    /// Column of the first head's strength; -1 where all of a value is taken in.
    pub strengths: i32,
    /// One per value head, or 0.
    pub skip: u64,
}

fn of_step(step: StepAt, layer: usize) -> [Argument; 7] {
    *arguments![
        step.runs,
        step.positions,
        step.sequences,
        step.tables,
        layer,
        step.max_pages,
        step.behind_pages
    ]
}

impl Kernels {
    /// A causal convolution along each sequence, in place.
    pub fn convolve(&self, x: &mut Rows, by: ConvolutionAt, step: StepAt) {
        assert!((1..=MOST_TAPS).contains(&by.taps) && by.at + by.channels <= x.width());
        let mut a = arguments![
            x.address(),
            x.width(),
            by.at,
            by.channels,
            by.taps,
            by.weights,
            by.bias,
            by.activation
        ]
        .to_vec();
        a.extend_from_slice(&of_step(step, by.layer));
        let what = What::other(&[x.address()], &[x.address()]);
        self.step("convolve", (by.channels.div_ceil(CHANNELS), step.run_count), 0, &a, what);
        x.touch();
    }

    /// A linear recurrence along each sequence; `out` gets the results of all value heads.
    pub fn scan(&self, x: &Rows, by: ScanAt, step: StepAt, out: &mut Rows) {
        let ScanAt { queries, keys, values, .. } = by;
        assert!(out.width() == values.count * values.width && out.rows() == x.rows());
        let mut a = arguments![
            x.address(),
            x.width(),
            queries.at,
            queries.stride,
            keys.at,
            keys.stride,
            keys.count,
            keys.width,
            by.sharing,
            values.at,
            values.stride,
            values.count,
            values.width,
            by.steps,
            by.step_bias,
            by.rate,
            by.strengths,
            by.skip,
            by.state_at
        ]
        .to_vec();
        a.extend_from_slice(&of_step(step, by.layer));
        a.extend_from_slice(arguments![out.address()]);
        let grid = (values.count * values.width.div_ceil(COLUMNS), step.run_count);
        let what = What::other(&[x.address()], &[out.address()]);
        self.step("scan", grid, scan_shared(keys.width), &a, what);
        out.touch();
    }
}
