//! Llama, Mistral and Mixtral (mergekit's frankenMoE too): NORM rope, so that converters permute q and k.

use super::Architecture;

pub(super) static ARCHITECTURE: Architecture = Architecture::LLAMA;
