//! Qwen3-Next: three layers of gated delta net to one of gated attention, a quarter of each head turned, experts and a
//! shared one behind a sigmoid gate everywhere.

use super::mixer::{self, delta_net, grouped};
use super::step::KeyHeads;
use super::{Architecture, Keys, QkNorm};
use crate::error::Result;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3next",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    ffn_norm: "post_attention_norm",
    mixer: |keys, architecture, layer| mixer(keys, architecture, layer, KeyHeads::Neighbours),
    ..Architecture::LLAMA
};

/// Files that do not list layers have attention in every fourth, or as often as they say.
pub(super) fn mixer(
    keys: &Keys<'_>,
    architecture: &Architecture,
    layer: usize,
    key_heads: KeyHeads,
) -> Result<Option<mixer::Shape>> {
    let interval = keys.number("full_attention_interval", 1 << 12)?.filter(|interval| *interval > 0);
    let listed = keys.flag_per_layer("attention.recurrent_layers", layer)?;
    if listed.unwrap_or(!(layer + 1).is_multiple_of(interval.unwrap_or(4))) {
        return delta_net::Shape::read(keys, key_heads).map(Some);
    }
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    if shape.value_length != shape.key_length {
        let expected = format!("{}, the width of a gate", shape.key_length);
        return Err(keys.wrong("attention.value_length", expected, shape.value_length));
    }
    shape.gated = true;
    Ok(Some(mixer::Shape::Grouped(shape)))
}
