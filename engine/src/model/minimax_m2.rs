//! MiniMax M2: one norm over all query heads and one over all key heads, half of a head turned, experts in every layer.

use super::{Architecture, Gating, QkNorm};
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "minimax-m2",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Row),
    gating: Gating::Sigmoid,
    ..Architecture::LLAMA
};
