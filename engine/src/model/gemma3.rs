//! Gemma 3, dense: scaled embeddings, norms around both halves, five sliding layers to one that sees everything.

use super::{Architecture, Attention, Config, Keys, QkNorm, config::slides, rope_scaling};
use crate::error::Result;
use crate::ops::{Activation, Rope, RopeStyle};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    activation: Activation::GeluTanh,
    post_norms: true,
    adjust,
    ..Architecture::LLAMA
};

/// Layers of the 27B model, whose attention scale comes from the width per head instead of the key length.
const LAYERS_OF_27B: usize = 62;

fn adjust(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    config.embedding_scale = (config.embedding_length as f32).sqrt();
    let window = keys.number("attention.sliding_window", 1 << 28)?.filter(|window| *window > 0);
    let pattern = keys.number("attention.sliding_window_pattern", 1 << 12)?.unwrap_or(6);
    let base = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
    if let (Some(window), Some(rope)) = (window, config.ropes.first()) {
        let frequencies = rope_scaling::plain(base, rope.dims());
        config.ropes.push(Rope { frequencies, magnitude: 1.0, ..rope.clone() });
        for (i, layer) in config.layers.iter_mut().enumerate() {
            if slides(i, pattern) {
                (layer.window, layer.rope) = (Some(window), Some(1));
            }
        }
    }
    if config.layers.len() == LAYERS_OF_27B {
        let width = config.embedding_length;
        for layer in &mut config.layers {
            if let Attention::Grouped(head) = &mut layer.attention {
                head.scale = 1.0 / ((width / head.head_count) as f32).sqrt();
            }
        }
    }
    Ok(())
}
