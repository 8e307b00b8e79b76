//! Llama, Mistral and Mixtral (mergekit's frankenMoE too): NORM rope, so that converters permute q and k.

use super::mixer::{self, grouped};
use super::{Architecture, Keys};
use crate::error::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture { mixer, ..Architecture::LLAMA };

/// Mistral's first models look back so far only, in every layer.
fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    shape.window = keys.number("attention.sliding_window", 1 << 28)?.filter(|window| *window > 0);
    Ok(Some(mixer::Shape::Grouped(shape)))
}
