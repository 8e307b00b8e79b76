//! LFM2 with experts: short convolutions in most layers, attention with a norm per head in the others, leading dense layers,
//! experts weighed by sigmoid.

use super::mixer::{self, grouped, short_conv};
use super::{Architecture, Gating, Keys, QkNorm};
use crate::error::Result;
use crate::ops::RopeStyle;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "lfm2moe",
    rope: Some(RopeStyle::Neox),
    qk_norm: Some(QkNorm::Head),
    gating: Gating::Sigmoid,
    // The converter took the final norm for one of the embedding.
    output_norm: "token_embd_norm",
    mixer,
    ..Architecture::LLAMA
};

fn mixer(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<mixer::Shape>> {
    match keys.per_layer("attention.head_count_kv", layer, usize::MAX)? {
        Some(0) => short_conv::Shape::read(keys).map(Some),
        _ => grouped::read(keys, architecture, layer),
    }
}
