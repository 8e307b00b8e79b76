//! German MoE GPT: layer norms, rotation of neighbouring pairs, dense and expert layers in turn, expert capacity.

use super::GatedNames;
use super::config::{Architecture, Balance, Biases, Config, Experts, Initialisation, Position};
use super::keys::Keys;
use super::roles::{Piece, Role};
use crate::ops::{Activation, NormKind, RotationStyle};
use crate::{Error, Result};
use serde_json::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "moe_gpt",
    class: "MoEGPTForCausalLM",
    vocabulary_key: "vocab_size",
    context_key: "n_positions",
    read,
    pieces,
    fused: |_, _, _| None,
    dense_twin,
};

fn read(keys: &Keys) -> Result<Config> {
    let (embedding, heads) = (keys.count("n_embd")?, keys.count("n_head")?);
    let head = keys.quotient("n_embd", embedding, heads)?;
    keys.always("head_dim", head)?;
    keys.always("num_key_value_heads", heads)?;
    keys.always("intermediate_size", 4 * embedding)?;
    keys.always("tie_word_embeddings", true)?;
    keys.unused("eval_capacity_factor");
    let activation = match keys.text_or("activation_function", "gelu")?.as_str() {
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        "swiglu" => Activation::Swiglu,
        other => return Err(keys.wrong("activation_function", "gelu, relu or swiglu", other)),
    };
    let (every, bias) = (keys.count_or("moe_layer_frequency", 2)?, keys.flag_or("bias", false)?);
    if activation == Activation::Swiglu && (every != 1 || bias) {
        let message = "swiglu needs moe_layer_frequency 1 (dense layers have no gate) and no biases";
        return Err(Error::request(message));
    }
    let layers = keys.count("n_layer")?;
    Ok(Config {
        architecture: &ARCHITECTURE,
        source: Value::Null,
        vocabulary: keys.count("vocab_size")?,
        context_length: keys.count("n_positions")?,
        embedding_length: embedding,
        block_count: layers,
        head_count: heads,
        head_count_kv: heads,
        head_length: head,
        norm: NormKind::Layer,
        norm_epsilon: keys.number_or("layer_norm_epsilon", 1e-5)?,
        head_norm: None,
        position: Position::Rotary { style: RotationStyle::Interleaved, theta: keys.rope_theta(10_000.0)? },
        bias: Biases { dense: bias, experts: bias },
        tied: true,
        activation,
        feed_forward_length: 4 * embedding,
        routed: (0..layers).map(|layer| layer.is_multiple_of(every)).collect(),
        experts: Experts {
            count: keys.count("n_experts")?,
            used: keys.count("n_experts_active")?,
            length: 4 * embedding,
            shared_length: 0,
            shared_count: 0,
            capacity: Some(keys.number_or("capacity_factor", 1.25)?).filter(|&factor| factor > 0.0),
            noise: keys.flag_or("use_noisy_gating", true)?,
            normalised: true,
            balance: Balance::PerLayer,
            load_balance: keys.number_or("aux_loss_alpha", 0.01)?,
            router_z: keys.number_or("router_z_loss_alpha", 0.001)?,
        },
        dropout: keys.number_or("dropout", 0.1)?,
        initialisation: Initialisation::TruncatedFanIn(keys.number_or("initializer_range", 0.1)?),
    })
}

fn pieces(config: &Config, role: Role, layer: usize, shape: &[usize]) -> Vec<Piece> {
    let one = |name: &str| vec![Piece::whole(format!("transformer.h.{layer}.{name}"), shape)];
    let experts = config.experts;
    match role {
        Role::TokenEmbedding => vec![Piece::whole("transformer.wte.weight", shape)],
        Role::AttentionNorm => one("ln_1.weight"),
        Role::AttentionNormBias => one("ln_1.bias"),
        Role::Qkv => one("attn.c_attn.weight"),
        Role::QkvBias => one("attn.c_attn.bias"),
        Role::AttentionOutput => one("attn.c_proj.weight"),
        Role::AttentionOutputBias => one("attn.c_proj.bias"),
        Role::FfnNorm => one("ln_2.weight"),
        Role::FfnNormBias => one("ln_2.bias"),
        Role::Up => one("mlp.c_fc.weight"),
        Role::UpBias => one("mlp.c_fc.bias"),
        Role::Down => one("mlp.c_proj.weight"),
        Role::DownBias => one("mlp.c_proj.bias"),
        Role::Router => one("moe.router.w_gate.weight"),
        Role::RouterNoise => one("moe.router.w_noise.weight"),
        Role::ExpertsUp if config.activation == Activation::Swiglu => {
            let prefix = format!("transformer.h.{layer}.moe.experts.");
            let names = GatedNames { gate: prefix.clone() + "w_gate", up: prefix + "w_fc" };
            names.halves(shape, 1).into_iter().map(Piece::transposed).collect()
        }
        Role::ExpertsUp => one("moe.experts.w_fc").into_iter().map(Piece::transposed).collect(),
        Role::ExpertsDown => one("moe.experts.w_proj").into_iter().map(Piece::transposed).collect(),
        Role::ExpertsUpBias => {
            let outside = [experts.count, 1, experts.length];
            one("moe.experts.fc_bias").into_iter().map(|piece| piece.shaped(&outside)).collect()
        }
        Role::ExpertsDownBias => {
            let outside = [experts.count, 1, config.embedding_length];
            one("moe.experts.proj_bias").into_iter().map(|piece| piece.shaped(&outside)).collect()
        }
        Role::OutputNorm => vec![Piece::whole("transformer.ln_f.weight", shape)],
        Role::OutputNormBias => vec![Piece::whole("transformer.ln_f.bias", shape)],
        _ => vec![],
    }
}

/// Layers without experts, of a model that has none at all.
fn dense_twin(role: Role, layer: usize) -> Option<Vec<String>> {
    let name = |matrix: &str| vec![format!("transformer.h.{layer}.mlp.{matrix}.weight")];
    match role {
        Role::ExpertsUp => Some(name("c_fc")),
        Role::ExpertsDown => Some(name("c_proj")),
        _ => None,
    }
}
