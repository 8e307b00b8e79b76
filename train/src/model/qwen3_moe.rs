//! Qwen3 with experts: in all layers, or in every n-th but those that `mlp_only_layers` names.

use super::config::{Architecture, Config, Experts, HeadNorms};
use super::family::{self, Kind, Window};
use super::keys::Keys;
use crate::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "max_position_embeddings",
    read,
    pieces: family::pieces,
    fused: family::fused,
    dense_twin: family::dense_twin,
};

const KIND: Kind = Kind {
    architecture: &ARCHITECTURE,
    head: None,
    epsilon: 1e-6,
    theta: 10_000.0,
    norms: Some(HeadNorms::Each),
    window: Window::Switched,
};

fn read(keys: &Keys) -> Result<Config> {
    let config = family::read(keys, &KIND)?;
    let (step, dense) = (keys.count_or("decoder_sparse_step", 1)?, keys.wholes("mlp_only_layers")?);
    let has_experts = |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
    let routed: Vec<bool> = (0..config.block_count).map(has_experts).collect();
    let feed_forward_length = match routed.contains(&false) {
        true => keys.count("intermediate_size")?,
        false => keys.maybe("intermediate_size")?.unwrap_or_default(),
    };
    let length = keys.count("moe_intermediate_size")?;
    let experts = family::experts(keys, "num_local_experts", length, 0.001)?;
    let experts = Experts { normalised: keys.flag_or("norm_topk_prob", false)?, ..experts };
    Ok(Config { feed_forward_length, routed, experts, ..config })
}
