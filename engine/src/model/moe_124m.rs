//! 124M-MoE: GPT-2's frame (learned positions, layer norms, untied head) with biased SwiGLU experts.

use super::{Architecture, Gating};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe-gpt2",
    layer_norm: true,
    rope: None,
    gating: Gating::SoftmaxChosen,
    ..Architecture::LLAMA
};
