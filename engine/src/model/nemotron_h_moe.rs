//! Nemotron-H with experts (Nemotron 3 Nano and Super): layers of one half each, Mamba-2, attention without positions, or
//! experts without a gate.

use super::ffn;
use super::mixer::{self, grouped, mamba2};
use super::{Architecture, Gating, Keys};
use crate::error::Result;
use crate::ops::Activation;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "nemotron_h_moe",
    rope: None,
    activation: Activation::ReluSquared,
    gating: Gating::Sigmoid,
    mixer,
    ffn,
    ..Architecture::LLAMA
};

/// What a layer's only half is.
enum Only {
    Mamba,
    Attention,
    Ffn,
}

/// The arrays that say so have no place for it but zeros.
fn only(keys: &Keys<'_>, layer: usize) -> Result<Only> {
    let above_zero = |name: &str| Ok(keys.per_layer(name, layer, usize::MAX)?.unwrap_or(0) > 0);
    Ok(match (above_zero("attention.head_count_kv")?, above_zero("feed_forward_length")?) {
        (true, _) => Only::Attention,
        (false, true) => Only::Ffn,
        (false, false) => Only::Mamba,
    })
}

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    // In the file, though nothing turns.
    keys.number("rope.dimension_count", usize::MAX)?;
    match only(keys, layer)? {
        Only::Attention => grouped::read(keys, architecture, layer),
        Only::Mamba => mamba2::Shape::read(keys).map(Some),
        Only::Ffn => Ok(None),
    }
}

fn ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<ffn::Shape>> {
    match only(keys, layer)? {
        Only::Ffn => ffn::read(keys, architecture, layer),
        Only::Attention | Only::Mamba => Ok(None),
    }
}
