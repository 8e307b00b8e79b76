//! Gemma 3, dense: scaled embeddings, norms around both halves, five sliding layers to one that sees everything.

use super::mixer::{self, grouped};
use super::{Architecture, Keys, QkNorm, config::slides, rope_scaling};
use crate::error::Result;
use crate::ops::{Activation, Rope, RopeStyle};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    activation: Activation::GeluTanh,
    post_norms: true,
    ropes,
    mixer,
    embedding_scale: |keys| Ok((keys.require("embedding_length", usize::MAX)? as f32).sqrt()),
    ..Architecture::LLAMA
};

/// Layers of the 27B model, whose attention scale comes from the width per head instead of the key length.
const LAYERS_OF_27B: usize = 62;

/// Positions that a sliding layer looks back, itself included.
pub(super) fn window(keys: &Keys<'_>) -> Result<Option<usize>> {
    Ok(keys.number("attention.sliding_window", 1 << 28)?.filter(|window| *window > 0))
}

fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    let mut ropes = rope_scaling::of_heads(keys, architecture)?;
    let base = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
    if let (Some(_), Some(rope)) = (window(keys)?, ropes.first()) {
        let frequencies = rope_scaling::plain(base, rope.dims());
        ropes.push(Rope { frequencies, magnitude: 1.0, ..rope.clone() });
    }
    Ok(ropes)
}

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    let pattern = keys.number("attention.sliding_window_pattern", 1 << 12)?.unwrap_or(6);
    if let Some(window) = window(keys)?.filter(|_| slides(layer, pattern)) {
        (shape.window, shape.rope) = (Some(window), Some(1));
    }
    if keys.require("block_count", usize::MAX)? == LAYERS_OF_27B {
        let width = keys.require("embedding_length", usize::MAX)?;
        shape.scale = 1.0 / ((width / shape.head_count) as f32).sqrt();
    }
    Ok(Some(mixer::Shape::Grouped(shape)))
}
