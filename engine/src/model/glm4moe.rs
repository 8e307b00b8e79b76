//! GLM-4.5 to 4.7: biased q, k and v, half of a head turned, a norm per head where the tensors are there (not in Air).

use super::mixer::{self, grouped};
use super::{Architecture, Gating, Keys, QkNorm};
use crate::error::Result;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "glm4moe",
    rope: Some(RopeStyle::Neox),
    gating: Gating::Sigmoid,
    ffn_norm: "post_attention_norm",
    mixer,
    ..Architecture::LLAMA
};

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    let mut shape = grouped::Shape::read(keys, architecture, layer)?;
    shape.qk_norm = keys.has(layer, "attn_q_norm.weight").then_some(QkNorm::Head);
    Ok(Some(mixer::Shape::Grouped(shape)))
}
