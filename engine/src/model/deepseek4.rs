//! DeepSeek V4 (Flash, Pro): windows and entries of 4 or 128 positions, several residual streams, experts that the first
//! layers choose by the token, clamped SwiGLU. Layers without entries turn by a base of their own, without scaling.

use super::ffn::experts::{self, ChosenBy, Gating};
use super::mixer::{self, compressed};
use super::{Architecture, Keys, Streams, ffn, limit, rope_scaling};
use crate::error::{Error, Result};
use crate::ops::{Activation, Rope, RopeStyle};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek4",
    gating: Gating::SqrtSoftplus,
    ropes,
    mixer,
    ffn,
    streams: |keys| Streams::read(keys).map(Some),
    ..Architecture::LLAMA
};

/// That of windows alone, then that of layers with entries.
fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    let dims = keys.require("rope.dimension_count", limit::WIDTH)?;
    let base = |name: &str, default: f32| match keys.float(name)?.unwrap_or(default) {
        base if base > 0.0 => Ok(base),
        base => Err(keys.wrong(name, "above 0", base)),
    };
    let (own, stretched) = (base("rope.freq_base", 1e4)?, base("attention.compress_rope_freq_base", 1.6e5)?);
    let (style, frequencies) = (RopeStyle::Norm, rope_scaling::plain(own, dims));
    let plain = Rope { style, frequencies, magnitude: 1.0 };
    let mut stretched = rope_scaling::read_with(keys, architecture, (style, dims), stretched)?;
    // The original multiplies cosines and sines by nothing, whatever stretches them.
    stretched.magnitude = 1.0;
    Ok(vec![plain, stretched])
}

/// How many positions become one in a layer. Layers that predict further tokens may be listed as well.
fn ratio(keys: &Keys<'_>, layer: usize) -> Result<usize> {
    const NAME: &str = "attention.compress_ratios";
    let layers = keys.require("block_count", limit::LAYERS)?;
    let ratios = keys.numbers(NAME, limit::CONTEXT)?;
    let place = || format!("a number for each of {layers} layers");
    let ratios = ratios.ok_or_else(|| keys.wrong(NAME, place(), "none"))?;
    if ratios.len() < layers || ratios.len() > 2 * layers + 1 {
        return Err(keys.wrong(NAME, place(), ratios.len()));
    }
    Ok(ratios[layer])
}

fn mixer(keys: &Keys<'_>, _: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let ratio = ratio(keys, layer)?;
    let shape = compressed::Shape::read(keys, ratio, usize::from(ratio > 0))?;
    Ok(Some(mixer::Shape::Compressed(shape)))
}

/// The bound of gates and hidden units in a layer; 0 for none.
fn clamped(keys: &Keys<'_>, name: &str, layer: usize) -> Result<Activation> {
    let limit = keys.float_per_layer(name, layer)?.unwrap_or(0.0);
    match limit {
        0.0 => Ok(Activation::Silu),
        limit if limit > 0.0 => Ok(Activation::SwigluClamped(limit)),
        limit => Err(keys.wrong(name, "0 or above", limit)),
    }
}

fn ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<ffn::Shape>> {
    let mut shape = experts::Shape::read(keys, architecture, layer)?;
    shape.activation = clamped(keys, "swiglu_clamp_exp", layer)?;
    if let Some(shared) = &mut shape.shared {
        shared.activation = clamped(keys, "swiglu_clamp_shexp", layer)?;
    }
    if layer < keys.number("hash_layer_count", limit::LAYERS)?.unwrap_or(0) {
        let embedding = keys.gguf.tensor("token_embd.weight").and_then(|tensor| tensor.shape.get(1));
        let rows = embedding.ok_or_else(|| Error::malformed("tensors", "`token_embd.weight`", "none"))?;
        shape.chosen_by = ChosenBy::Token { vocab_size: *rows as usize };
    }
    Ok(Some(ffn::Shape::Experts(shape)))
}
