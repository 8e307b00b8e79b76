//! DeepSeek V2 and V3: latent attention in its absorbed form (`attn_k_b`, `attn_v_b`), shared experts.

use super::{Architecture, Attention, Config, Keys, rope_scaling};
use crate::error::{Error, Result};
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek2",
    // The rotation needs the latent sizes: `adjust` makes it.
    rope: None,
    normalise: false,
    adjust,
    ..Architecture::LLAMA
};

/// Upper bound of a latent width.
const WIDTH: usize = 1 << 16;

fn adjust(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    if keys.gguf.tensor("blk.0.attn_kv_b.weight").is_some() {
        let what = "the old layout of latent attention (tensor `attn_kv_b`) is not read";
        return Err(Error::unsupported(what, "convert the original checkpoint again"));
    }
    let rope_length = keys.require("rope.dimension_count", WIDTH)?;
    let key_length = keys.require("attention.key_length_mla", WIDTH)?;
    if key_length <= rope_length {
        return Err(keys.wrong("attention.key_length_mla", format!("more than {rope_length}"), key_length));
    }
    let mut rope = rope_scaling::read(keys, &ARCHITECTURE, RopeStyle::Norm, rope_length)?;
    for name in ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"] {
        if let Some(factor) = keys.float(name)?.filter(|factor| *factor != 1.0) {
            return Err(keys.wrong(
                name,
                "1, as other factors are not computed for latent attention",
                factor,
            ));
        }
    }
    // The original's attention factor is mscale / mscale_all_dim, 1 in every published model; what remains of
    // YaRN's factor goes into the softmax scale, squared.
    rope.magnitude = 1.0;
    config.ropes = vec![rope];
    let log_multiplier = keys.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let factor = keys.float("rope.scaling.factor")?.filter(|factor| *factor > 1.0).unwrap_or(1.0);
    let stretch = 1.0 + log_multiplier * factor.ln();
    for layer in &mut config.layers {
        let Attention::Grouped(head) = &layer.attention else { continue };
        layer.rope = Some(0);
        layer.attention = Attention::Latent {
            head_count: head.head_count,
            q_lora_rank: keys.number("attention.q_lora_rank", WIDTH)?.filter(|rank| *rank > 0),
            kv_lora_rank: keys.require("attention.kv_lora_rank", WIDTH)?,
            nope_length: key_length - rope_length,
            rope_length,
            value_length: keys.require("attention.value_length_mla", WIDTH)?,
            scale: stretch * stretch / (key_length as f32).sqrt(),
        };
    }
    Ok(())
}
