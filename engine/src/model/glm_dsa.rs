//! GLM-5: latent attention as in DeepSeek V3 that looks at chosen positions, experts by sigmoid.

use super::ffn::experts::Gating;
use super::mixer::latent::{Choice, Indexer};
use super::{Architecture, Keys, deepseek2, limit, mixer};
use crate::error::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "glm-dsa",
    gating: Gating::Sigmoid,
    normalise: false,
    ropes: deepseek2::ropes,
    mixer,
    ..Architecture::LLAMA
};

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = deepseek2::shape(keys, architecture, layer)?;
    let choice = if chooses(keys, layer)? { Choice::Own } else { Choice::Before };
    if layer == 0 && choice == Choice::Before {
        let expected = "true for the first layer, before which nothing is chosen";
        return Err(keys.wrong("attention.indexer.types", expected, false));
    }
    shape.indexer = Some(Indexer::read(keys, shape.rope, choice)?);
    Ok(Some(mixer::Shape::Latent(shape)))
}

/// Whether a layer chooses for itself. Files without the key are told apart as llama.cpp does: GLM-5.2 has a context of
/// 2^20, and one chooser for four layers behind the first three.
fn chooses(keys: &Keys<'_>, layer: usize) -> Result<bool> {
    if let Some(chooses) = keys.flag_per_layer("attention.indexer.types", layer)? {
        return Ok(chooses);
    }
    let is_first = keys.require("context_length", limit::CONTEXT)? < 1 << 20;
    Ok(is_first || layer < 2 || (layer - 2).is_multiple_of(4))
}
