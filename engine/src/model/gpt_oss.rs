//! gpt-oss: attention sinks, every other layer sliding, biases everywhere, clamped SwiGLU experts.

use super::mixer::{self, grouped};
use super::{Architecture, Gating, Keys, config::slides};
use crate::error::Result;
use crate::ops::{Activation, RopeStyle};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gpt-oss",
    rope: Some(RopeStyle::Neox),
    activation: Activation::SwigluOai,
    gating: Gating::SoftmaxChosen,
    ffn_norm: "post_attention_norm",
    // The original says `truncate: false`.
    yarn_whole_pairs: false,
    mixer,
    ..Architecture::LLAMA
};

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    let window = keys.number("attention.sliding_window", 1 << 28)?.filter(|window| *window > 0);
    let pattern = keys.number("attention.sliding_window_pattern", 1 << 12)?.unwrap_or(2);
    shape.window = window.filter(|_| slides(layer, pattern));
    Ok(Some(mixer::Shape::Grouped(shape)))
}
