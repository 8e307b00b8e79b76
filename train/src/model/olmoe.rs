//! OLMoE: norms over all heads of queries and of keys together, routers whose weights need not add up to 1.

use super::config::{Architecture, Config, Experts, HeadNorms};
use super::family::{self, Kind, Window};
use super::keys::Keys;
use crate::Result;
use serde_json::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "olmoe",
    class: "OlmoeForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "max_position_embeddings",
    read,
    pieces: family::pieces,
    fused: family::fused,
    dense_twin: |_, _| None,
};

const KIND: Kind = Kind {
    architecture: &ARCHITECTURE,
    head: None,
    epsilon: 1e-5,
    theta: 10_000.0,
    norms: Some(HeadNorms::All),
    window: Window::Never,
};

fn read(keys: &Keys) -> Result<Config> {
    keys.always("clip_qkv", Value::Null)?;
    let config = family::read(keys, &KIND)?;
    let length = keys.count("intermediate_size")?;
    let experts = family::experts(keys, "num_experts", length, 0.01)?;
    let experts = Experts { normalised: keys.flag_or("norm_topk_prob", false)?, ..experts };
    Ok(Config { routed: vec![true; config.block_count], experts, ..config })
}
