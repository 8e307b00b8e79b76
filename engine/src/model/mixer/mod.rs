//! What mixes positions, the first half of a layer: a room for each kind and its line in the table below.

pub mod grouped;
pub mod latent;
#[cfg(test)]
pub(in crate::model) mod toy;

use super::backend::Backend;
use super::bind::LayerBinder;
use super::kinds::{Half, Kind, Pass, kinds};
use super::kv_cache::Memory;
use super::observe::Observe;
use super::weights::Matrix;
use crate::error::Result;

kinds! {
    /// What mixes positions, with its weights.
    Mixer {
        /// Query heads share key and value heads.
        Grouped: grouped,
        /// Keys and values come from one small latent row.
        Latent: latent,
        /// For tests.
        #[cfg(test)]
        Toy: toy,
    }
}
