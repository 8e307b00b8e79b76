//! dots.llm1: attention of Qwen 3, experts of DeepSeek V3.

use super::ffn::experts::Gating;
use super::{Architecture, QkNorm};
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "dots1",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    gating: Gating::Sigmoid,
    normalise: false,
    ..Architecture::LLAMA
};
