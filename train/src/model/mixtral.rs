//! Mixtral: Llama with routed SwiGLU experts in every layer, in the tensor names of its first releases, which every
//! reader knows.

use super::config::{Biases, Config, Experts, Initialisation, Position};
use super::keys::Keys;
use super::parameters::{Piece, Role};
use super::{Architecture, qkv_pieces};
use crate::Result;
use crate::ops::{Activation, NormKind, RotationStyle};
use serde_json::Value;

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
    let (embedding, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
    let hidden = keys.count("intermediate_size")?;
    let head = match keys.maybe("head_dim")? {
        Some(head) if head > 0 && head.is_multiple_of(2) => head,
        Some(head) => return Err(keys.wrong("head_dim", "an even number from 2", head)),
        None => keys.quotient("hidden_size", embedding, heads)?,
    };
    let context = keys.count("max_position_embeddings")?;
    if let Some(window) = keys.maybe("sliding_window")?.filter(|&window| window > 0 && window < context) {
        let expected = format!("null or at least the context of {context}: no window is trained");
        return Err(keys.wrong("sliding_window", &expected, window));
    }
    keys.always("hidden_act", "silu")?;
    keys.always("attention_dropout", 0.0)?;
    keys.always("router_jitter_noise", 0.0)?;
    keys.always("attention_bias", false)?;
    keys.always("mlp_bias", false)?;
    Ok(Config {
        architecture: &ARCHITECTURE,
        source: Value::Null,
        vocabulary: keys.count("vocab_size")?,
        context_length: context,
        embedding_length: embedding,
        block_count: keys.count("num_hidden_layers")?,
        head_count: heads,
        head_count_kv: keys.count("num_key_value_heads")?,
        head_length: head,
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
            count: keys.count("num_local_experts")?,
            used: keys.count("num_experts_per_tok")?,
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
