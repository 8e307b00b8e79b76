//! German MoE GPT v8: layer norms, neighbour rotation, dense and expert layers alternating, ungated or gated
//! experts, and an expert capacity that drops tokens when the original's behaviour is asked for.

use super::ffn::experts::Capacity;
use super::ffn::{self, dense, experts};
use super::{Architecture, Gating, Keys};
use crate::error::Result;
use crate::ops::Activation;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe-gpt",
    layer_norm: true,
    gating: Gating::SoftmaxChosen,
    activation: Activation::GeluErf,
    ffn,
    ..Architecture::LLAMA
};

fn ffn(keys: &Keys<'_>, architecture: &Architecture, layer: usize) -> Result<Option<ffn::Shape>> {
    let name = "feed_forward_activation";
    let activation = match keys.text(name)?.unwrap_or("gelu_erf") {
        "gelu_erf" => Activation::GeluErf,
        "relu" => Activation::Relu,
        "swiglu" => Activation::Silu,
        other => return Err(keys.wrong(name, "gelu_erf, relu or swiglu", other)),
    };
    let factor = keys.float("expert_capacity_factor")?.unwrap_or(1.25);
    if factor <= 0.0 {
        return Err(keys.wrong("expert_capacity_factor", "above 0", factor));
    }
    let capacity = Some(Capacity { factor });
    Ok(ffn::read(keys, architecture, layer)?.map(|shape| match shape {
        ffn::Shape::Dense(shape) => ffn::Shape::Dense(dense::Shape { activation, ..shape }),
        ffn::Shape::Experts(shape) => ffn::Shape::Experts(experts::Shape { activation, capacity, ..shape }),
    }))
}
