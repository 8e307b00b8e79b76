//! German MoE GPT v8: layer norms, neighbour rotation, dense and expert layers alternating, ungated or gated
//! experts, and an expert capacity that drops tokens when the original's behaviour is asked for.

use super::{Architecture, Capacity, Config, Ffn, Gating, Keys};
use crate::error::Result;
use crate::ops::Activation;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe-gpt",
    layer_norm: true,
    gating: Gating::SoftmaxChosen,
    activation: Activation::GeluErf,
    adjust,
    ..Architecture::LLAMA
};

fn adjust(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    let name = "feed_forward_activation";
    let chosen = match keys.text(name)?.unwrap_or("gelu_erf") {
        "gelu_erf" => Activation::GeluErf,
        "relu" => Activation::Relu,
        "swiglu" => Activation::Silu,
        other => return Err(keys.wrong(name, "gelu_erf, relu or swiglu", other)),
    };
    let factor = keys.float("expert_capacity_factor")?.unwrap_or(1.25);
    if factor <= 0.0 {
        return Err(keys.wrong("expert_capacity_factor", "above 0", factor));
    }
    for layer in &mut config.layers {
        match &mut layer.ffn {
            Ffn::Dense { activation, .. } => *activation = chosen,
            Ffn::Experts(experts) => {
                experts.activation = chosen;
                experts.capacity = Some(Capacity { factor });
            }
        }
    }
    Ok(())
}
