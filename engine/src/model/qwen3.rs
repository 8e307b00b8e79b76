//! Qwen 3, dense: a norm per head on queries and keys.

use super::Architecture;
use super::QkNorm;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    ..Architecture::LLAMA
};
