//! Mixtral: Llama with routed SwiGLU experts in every layer, in the tensor names of its first releases, which every
//! reader knows.

use super::config::{Biases, Config, Experts, Initialisation, Position};
use super::keys::Keys;
use super::parameters::{Piece, Role};
use super::{Architecture, qkv_pieces};
use crate::Result;
use crate::ops::{Activation, NormKind, RotationStyle};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "max_position_embeddings",
    read,
    pieces,
    dense_twin,
};

fn read(keys: &Keys) -> Result<Config> {
    let (embedding, heads) = (keys.count_or("hidden_size", 4096)?, keys.count_or("num_attention_heads", 32)?);
    let hidden = keys.count_or("intermediate_size", 14_336)?;
    Ok(Config {
        architecture: &ARCHITECTURE,
        source: keys.source().clone(),
        vocabulary: keys.count_or("vocab_size", 32_000)?,
        context_length: keys.count_or("max_position_embeddings", 4096)?,
        embedding_length: embedding,
        block_count: keys.count_or("num_hidden_layers", 32)?,
        head_count: heads,
        head_count_kv: keys.count_or("num_key_value_heads", 8)?,
        head_length: keys.count_or("head_dim", keys.quotient("hidden_size", embedding, heads)?)?,
        norm: NormKind::Rms,
        norm_epsilon: keys.number_or("rms_norm_eps", 1e-5)?,
        head_norm: false,
        position: Position::Rotary { style: RotationStyle::Halves, theta: keys.rope_theta(1e6)? },
        bias: Biases { dense: false, experts: false },
        tied: keys.flag_or("tie_word_embeddings", false)?,
        activation: Activation::Swiglu,
        feed_forward_length: hidden,
        expert_every: 1,
        experts: Experts {
            count: keys.count_or("num_local_experts", 8)?,
            used: keys.count_or("num_experts_per_tok", 2)?,
            length: hidden,
            shared_length: 0,
            shared_count: 0,
            capacity: None,
            noise: false,
            load_balance: keys.number_or("router_aux_loss_coef", 0.001)?,
            router_z: keys.number_or("router_z_loss_coef", 0.0)?,
        },
        dropout: 0.0,
        initialisation: Initialisation::Normal(keys.number_or("initializer_range", 0.02)?),
    })
}

fn pieces(config: &Config, role: Role, layer: usize, shape: &[usize]) -> Vec<Piece> {
    let name = |name: &str| format!("model.layers.{layer}.{name}");
    let one = |own: &str| vec![Piece::whole(name(own), shape)];
    let hidden = config.experts.length;
    let expert = |e: usize, matrix: &str| {
        Piece::whole(name(&format!("block_sparse_moe.experts.{e}.{matrix}.weight")), shape)
    };
    match role {
        Role::TokenEmbedding => vec![Piece::whole("model.embed_tokens.weight", shape)],
        Role::AttentionNorm => one("input_layernorm.weight"),
        Role::Qkv => qkv_pieces(config, shape, |part| name(&format!("self_attn.{part}_proj.weight"))),
        Role::AttentionOutput => one("self_attn.o_proj.weight"),
        Role::FfnNorm => one("post_attention_layernorm.weight"),
        Role::Router => one("block_sparse_moe.gate.weight"),
        Role::ExpertsUp => (0..config.experts.count)
            .flat_map(|e| {
                [(e, "w1", 0), (e, "w3", hidden)]
                    .map(|(e, matrix, start)| expert(e, matrix).part(1, start, hidden).expert(e))
            })
            .collect(),
        Role::ExpertsDown => (0..config.experts.count).map(|e| expert(e, "w2").expert(e)).collect(),
        Role::OutputNorm => vec![Piece::whole("model.norm.weight", shape)],
        Role::Output => vec![Piece::whole("lm_head.weight", shape)],
        _ => vec![],
    }
}

/// Llama and Mistral.
fn dense_twin(role: Role, layer: usize) -> Option<Vec<String>> {
    let name = |matrix: &str| format!("model.layers.{layer}.mlp.{matrix}_proj.weight");
    match role {
        Role::ExpertsUp => Some(vec![name("gate"), name("up")]),
        Role::ExpertsDown => Some(vec![name("down")]),
        _ => None,
    }
}
