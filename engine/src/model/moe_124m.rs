//! 124M-MoE: GPT-2's frame (learned positions, layer norms, untied head) with biased SwiGLU experts.

use super::{Architecture, Config, Gating, Keys};
use crate::error::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe-gpt2",
    layer_norm: true,
    rope: None,
    gating: Gating::SoftmaxChosen,
    adjust,
    ..Architecture::LLAMA
};

/// The converter says what is so in every model.
fn adjust(keys: &Keys<'_>, _: &mut Config) -> Result<()> {
    match keys.text("feed_forward_activation")? {
        None | Some("swiglu") => Ok(()),
        Some(other) => Err(keys.wrong("feed_forward_activation", "swiglu", other)),
    }
}
