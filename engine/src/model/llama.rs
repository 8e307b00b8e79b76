//! Llama, Mistral and Mixtral (mergekit's frankenMoE too): NORM rope, so that converters permute q and k.

use super::{Architecture, Config, Keys};
use crate::error::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture { adjust, ..Architecture::LLAMA };

/// Mistral's first models look back so far only, in every layer.
fn adjust(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    let window = keys.number("attention.sliding_window", 1 << 28)?.filter(|window| *window > 0);
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}
