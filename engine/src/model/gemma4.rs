//! Gemma 4: five sliding layers to one that sees everything through wider heads, values normed or taken from keys, experts
//! beside a dense FFN, a factor on each layer's output, bounded logits.

use super::ffn;
use super::ffn::experts::{self, Inner, Shared};
use super::mixer;
use super::mixer::grouped::{self, Values};
use super::{Architecture, Keys, QkNorm, gemma3, rope_scaling};
use crate::error::Result;
use crate::ops::{Activation, Rope, RopeStyle};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma4",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    activation: Activation::GeluTanh,
    post_norms: true,
    ropes,
    mixer,
    ffn,
    // As llama.cpp has it where a file says nothing.
    logit_cap: |keys| {
        let cap = keys.float("final_logit_softcapping")?.unwrap_or(30.0);
        Ok(Some(cap).filter(|cap| *cap > 0.0))
    },
    ..gemma3::ARCHITECTURE
};

/// Upper bound of a head's width.
const WIDTH: usize = 1 << 16;

/// That of the layers that see everything, in which factors keep most pairs from turning, and that of the others.
fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    let mut ropes = rope_scaling::of_heads(keys, architecture)?;
    if let (Some(length), Some(rope)) = (sliding(keys, "attention.key_length_swa")?, ropes.first()) {
        let dims = keys.number("rope.dimension_count_swa", length)?.unwrap_or(length);
        if dims % 2 != 0 || dims == 0 {
            return Err(keys.wrong("rope.dimension_count_swa", "an even number above 0", dims));
        }
        let base = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
        if base <= 0.0 {
            return Err(keys.wrong("rope.freq_base_swa", "above 0", base));
        }
        ropes.push(Rope { frequencies: rope_scaling::plain(base, dims), magnitude: 1.0, ..rope.clone() });
    }
    Ok(ropes)
}

/// A length of sliding layers, where there are any.
fn sliding(keys: &Keys<'_>, name: &str) -> Result<Option<usize>> {
    if gemma3::window(keys)?.is_none() {
        return Ok(None);
    }
    let other = name.trim_end_matches("_swa");
    match keys.number(name, WIDTH)? {
        Some(length) => Ok(Some(length)),
        None => keys.require(other, WIDTH).map(Some),
    }
}

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    shape.scale = keys.float("attention.scale")?.unwrap_or(1.0);
    let window = gemma3::window(keys)?;
    let slides = keys.flag_per_layer("attention.sliding_window_pattern", layer)?;
    if slides.unwrap_or(false) && window.is_some() {
        (shape.window, shape.rope) = (window, Some(1));
        shape.key_length = sliding(keys, "attention.key_length_swa")?.unwrap_or(shape.key_length);
        shape.value_length = sliding(keys, "attention.value_length_swa")?.unwrap_or(shape.value_length);
    }
    let has_values = keys.has(layer, "attn_v.weight");
    shape.values = if has_values { Values::Normed } else { Values::Keys };
    if !has_values && shape.key_length != shape.value_length {
        return Err(keys.wrong("attention.value_length", shape.key_length.to_string(), shape.value_length));
    }
    Ok(Some(mixer::Shape::Grouped(shape)))
}

fn ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<ffn::Shape>> {
    let shape = ffn::read(keys, architecture, layer)?;
    let Some(ffn::Shape::Experts(shape)) = shape else { return Ok(shape) };
    let length = keys.per_layer("feed_forward_length", layer, WIDTH)?.unwrap_or(0);
    let shared = Some(Shared { length, gated: false, activation: shape.activation }).filter(|_| length > 0);
    Ok(Some(ffn::Shape::Experts(experts::Shape { inner: Inner::Normed, shared, ..shape })))
}
