//! gpt-oss: attention sinks, every other layer sliding, biases everywhere, clamped SwiGLU experts.

use super::{Architecture, Config, Gating, Keys, config::slides};
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
    adjust,
    ..Architecture::LLAMA
};

fn adjust(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    let window = keys.number("attention.sliding_window", 1 << 28)?.filter(|window| *window > 0);
    let pattern = keys.number("attention.sliding_window_pattern", 1 << 12)?.unwrap_or(2);
    for (i, layer) in config.layers.iter_mut().enumerate() {
        layer.window = window.filter(|_| slides(i, pattern));
    }
    Ok(())
}
