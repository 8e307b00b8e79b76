//! OLMoE: one norm over all query heads and one over all key heads, weights of the chosen not normalised.

use super::Architecture;
use super::QkNorm;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "olmoe",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Row),
    normalise: false,
    ..Architecture::LLAMA
};
