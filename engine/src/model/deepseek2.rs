//! DeepSeek V2 and V3: latent attention in its absorbed form (`attn_k_b`, `attn_v_b`), shared experts.

use super::mixer::{self, grouped, latent};
use super::{Architecture, Keys, rope_scaling};
use crate::error::{Error, Result};
use crate::ops::{Rope, RopeStyle};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "deepseek2", normalise: false, ropes, mixer, ..Architecture::LLAMA };

/// Upper bound of a latent width.
const WIDTH: usize = 1 << 16;

/// Widths of a head's key: the rotated part, and all of it.
fn key_lengths(keys: &Keys<'_>) -> Result<(usize, usize)> {
    let rope_length = keys.require("rope.dimension_count", WIDTH)?;
    let key_length = keys.require("attention.key_length_mla", WIDTH)?;
    if key_length <= rope_length {
        return Err(keys.wrong("attention.key_length_mla", format!("more than {rope_length}"), key_length));
    }
    Ok((rope_length, key_length))
}

pub(super) fn ropes(keys: &Keys<'_>, architecture: &Architecture) -> Result<Vec<Rope>> {
    let (rope_length, _) = key_lengths(keys)?;
    let mut rope = rope_scaling::read(keys, architecture, RopeStyle::Norm, rope_length)?;
    for name in ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"] {
        if let Some(factor) = keys.float(name)?.filter(|factor| *factor != 1.0) {
            let expected = "1, as other factors are not computed for latent attention";
            return Err(keys.wrong(name, expected, factor));
        }
    }
    // The original's attention factor is mscale / mscale_all_dim, 1 in every published model; what remains of
    // YaRN's factor goes into the softmax scale, squared.
    rope.magnitude = 1.0;
    Ok(vec![rope])
}

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    Ok(Some(mixer::Shape::Latent(shape(keys, architecture, layer)?)))
}

/// Sizes of a layer's latent attention, which looks at all positions.
pub(super) fn shape(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<latent::Shape> {
    if keys.has(layer, "attn_kv_b.weight") {
        let what = "the old layout of latent attention (tensor `attn_kv_b`) is not read";
        return Err(Error::unsupported(what, "convert the original checkpoint again"));
    }
    let (rope_length, key_length) = key_lengths(keys)?;
    let log_multiplier = keys.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let factor = keys.float("rope.scaling.factor")?.filter(|factor| *factor > 1.0).unwrap_or(1.0);
    let stretch = 1.0 + log_multiplier * factor.ln();
    Ok(latent::Shape {
        head_count: grouped::Shape::read(keys, architecture, layer)?.head_count,
        q_lora_rank: keys.number("attention.q_lora_rank", WIDTH)?.filter(|rank| *rank > 0),
        kv_lora_rank: keys.require("attention.kv_lora_rank", WIDTH)?,
        nope_length: key_length - rope_length,
        rope_length,
        value_length: keys.require("attention.value_length_mla", WIDTH)?,
        scale: stretch * stretch / (key_length as f32).sqrt(),
        rope: 0,
        indexer: None,
    })
}
