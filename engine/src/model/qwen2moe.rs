//! Qwen 1.5/2 MoE: a shared expert behind a sigmoid gate. `expert_weights_norm` is honoured (stock llama.cpp ignores it).

use super::Architecture;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "qwen2moe", rope: Some(RopeStyle::Neox), normalise: false, ..Architecture::LLAMA };
