//! Qwen 3 MoE: as Qwen 3, with normalised experts.

use super::Architecture;
use super::QkNorm;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3moe",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    ..Architecture::LLAMA
};
