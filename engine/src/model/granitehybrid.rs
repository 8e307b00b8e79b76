//! Granite 4: Granite's factors, Mamba-2 in most layers, attention that mostly has no positions, experts beside a shared
//! FFN, or that FFN alone.

use super::mixer::{self, grouped, mamba2};
use super::{Architecture, Keys, rope_scaling};
use crate::error::Result;
use crate::ops::Rope;

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "granitehybrid", ropes, mixer, ..Architecture::LLAMA };

/// llama.cpp takes this key of Granite for a switch of the rotation.
fn turns(keys: &Keys<'_>) -> Result<bool> {
    Ok(keys.flag("rope.scaling.finetuned")? != Some(false))
}

fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    if turns(keys)? {
        return rope_scaling::of_heads(keys, architecture);
    }
    // In the file, though nothing turns.
    keys.number("rope.dimension_count", usize::MAX)?;
    keys.float("rope.freq_base")?;
    Ok(vec![])
}

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    if keys.per_layer("attention.head_count_kv", layer, usize::MAX)? == Some(0) {
        return mamba2::Shape::read(keys).map(Some);
    }
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    shape.rope = shape.rope.filter(|_| turns(keys).unwrap_or(true));
    Ok(Some(mixer::Shape::Grouped(shape)))
}
