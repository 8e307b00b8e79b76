//! Mixtral: Llama with routed SwiGLU experts in every layer, in the tensor names of its first releases, which every
//! reader knows.

use super::config::{Architecture, Config};
use super::family::{self, Kind, Window};
use super::keys::Keys;
use super::roles::{Piece, Role};
use crate::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "max_position_embeddings",
    read,
    pieces,
    fused: family::fused,
    dense_twin: family::dense_twin,
};

const KIND: Kind = Kind {
    architecture: &ARCHITECTURE,
    head: None,
    epsilon: 1e-5,
    theta: 1e6,
    norms: None,
    window: Window::Key(None),
};

fn read(keys: &Keys) -> Result<Config> {
    keys.always("router_jitter_noise", 0.0)?;
    keys.unused("pretraining_tp"); // of the Llama that a mixture was merged from
    let hidden = keys.count("intermediate_size")?;
    let (config, experts) =
        (family::read(keys, &KIND)?, family::experts(keys, "num_local_experts", hidden, 0.001)?);
    Ok(Config { feed_forward_length: hidden, routed: vec![true; config.block_count], experts, ..config })
}

fn pieces(config: &Config, role: Role, layer: usize, shape: &[usize]) -> Vec<Piece> {
    let name = |name: &str| format!("model.layers.{layer}.block_sparse_moe.{name}.weight");
    match role {
        Role::Router => vec![Piece::whole(name("gate"), shape)],
        Role::ExpertsUp => family::expert_pieces(config, shape, |e, matrix| {
            name(&format!("experts.{e}.{}", ["w1", "w3"][matrix]))
        }),
        Role::ExpertsDown => (0..config.experts.count)
            .map(|e| Piece::whole(name(&format!("experts.{e}.w2")), shape).expert(e))
            .collect(),
        _ => family::pieces(config, role, layer, shape),
    }
}
