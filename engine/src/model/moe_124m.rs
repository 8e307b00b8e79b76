//! 124M-MoE: GPT-2's frame (learned positions, layer norms, untied head) with biased SwiGLU experts.

use super::{Architecture, Gating, Keys, ffn};
use crate::error::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe-gpt2",
    layer_norm: true,
    rope: None,
    gating: Gating::SoftmaxChosen,
    ffn,
    ..Architecture::LLAMA
};

/// The converter says what is so in every model.
fn ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<ffn::Shape>> {
    match keys.text("feed_forward_activation")? {
        None | Some("swiglu") => ffn::read(keys, architecture, layer),
        Some(other) => Err(keys.wrong("feed_forward_activation", "swiglu", other)),
    }
}
