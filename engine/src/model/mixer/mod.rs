//! What mixes positions, the first half of a layer: a room for each kind and its line in the table below.

pub mod compressed;
mod convolution;
pub mod delta_net;
pub mod grouped;
pub mod latent;
pub mod mamba2;
pub mod short_conv;
mod sizes;

use super::backend::Backend;
use super::binder::LayerBinder;
use super::kinds::{Half, Kind, Pass, kinds};
use super::matrix::Matrix;
use super::observe::Observe;
use super::state::Memory;
use crate::error::Result;

kinds! {
    /// What mixes positions, with its weights.
    Mixer {
        /// Query heads share key and value heads.
        Grouped: grouped,
        /// Keys and values come from one small latent row.
        Latent: latent,
        /// Keys are values, and entries stand for several positions.
        Compressed: compressed,
        /// A recurrence that corrects itself.
        DeltaNet: delta_net,
        /// A recurrence that decays.
        Mamba2: mamba2,
        /// Neighbouring positions alone.
        ShortConv: short_conv,
    }
}
