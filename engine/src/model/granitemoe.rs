//! Granite MoE: Llama's layout with factors on embeddings, residuals, attention and logits, all read from keys.

use super::{Architecture, Keys, rope_scaling};
use crate::error::{Error, Result};
use crate::ops::Rope;

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "granitemoe", ropes, ..Architecture::LLAMA };

/// llama.cpp takes this key of Granite for a switch of the rotation.
fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    if keys.flag("rope.scaling.finetuned")? == Some(false) {
        let what = "key `granitemoe.rope.scaling.finetuned` is false: a Granite model without positions";
        return Err(Error::unsupported(what, "only those with a rotation are computed here"));
    }
    rope_scaling::of_heads(keys, architecture)
}
