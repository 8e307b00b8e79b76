//! Qwen 2 and 2.5, dense: biases on q, k and v.

use super::Architecture;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "qwen2", rope: Some(RopeStyle::Neox), ..Architecture::LLAMA };
