//! Bailing/Ling 2, the name under which Tachyon models are written: fused qkv, a norm per head, shared experts.

use super::Architecture;
use super::QkNorm;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "bailingmoe2",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    ..Architecture::LLAMA
};
