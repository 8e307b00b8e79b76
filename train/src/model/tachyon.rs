//! Tachyon, the Acceleron series: RMS norms, norms of queries and keys, grouped heads, shared experts.

use super::config::{Architecture, Balance, Biases, Config, Experts, HeadNorms, Initialisation, Position};
use super::keys::Keys;
use super::roles::{Piece, Role};
use super::{GatedNames, qkv_pieces};
use crate::Result;
use crate::ops::{Activation, NormKind, RotationStyle};
use serde_json::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "tachyon",
    class: "Tachyon",
    vocabulary_key: "vocab_size",
    context_key: "max_seq_len",
    read,
    pieces,
    fused: |_, _, _| None,
    dense_twin: |_, _| None,
};

fn read(keys: &Keys) -> Result<Config> {
    let (embedding, heads) = (keys.count("d_model")?, keys.count("n_heads")?);
    let head = keys.quotient("d_model", embedding, heads)?;
    keys.always("head_dim", head)?;
    keys.always("tie_word_embeddings", true)?;
    let shared_count = keys.whole("n_shared_experts")?;
    let shared = if shared_count > 0 { keys.count("d_shared_ff")? } else { 0 };
    keys.unused("d_shared_ff"); // where no expert is shared
    let layers = keys.count("n_layers")?;
    Ok(Config {
        architecture: &ARCHITECTURE,
        source: Value::Null,
        vocabulary: keys.count("vocab_size")?,
        context_length: keys.count("max_seq_len")?,
        embedding_length: embedding,
        block_count: layers,
        head_count: heads,
        head_count_kv: keys.count("n_kv_heads")?,
        head_length: head,
        norm: NormKind::Rms,
        norm_epsilon: keys.number_or("rms_norm_eps", 1e-6)?,
        head_norm: Some(HeadNorms::Each),
        position: Position::Rotary { style: RotationStyle::Halves, theta: keys.rope_theta(10_000.0)? },
        bias: Biases { dense: false, experts: false },
        tied: true,
        activation: Activation::Swiglu,
        feed_forward_length: 0,
        routed: vec![true; layers],
        experts: Experts {
            count: keys.count("n_routed_experts")?,
            used: keys.count("top_k_experts")?,
            length: keys.count("d_ff")?,
            shared_length: shared_count * shared,
            shared_count,
            capacity: None,
            noise: false,
            normalised: true,
            balance: Balance::PerLayer,
            load_balance: keys.number_or("balance_loss_coef", 0.01)?,
            router_z: keys.number_or("z_loss_coef", 0.001)?,
        },
        dropout: keys.number_or("dropout", 0.0)?,
        initialisation: Initialisation::Normal(keys.number_or("initializer_range", 0.02)?),
    })
}

fn pieces(config: &Config, role: Role, layer: usize, shape: &[usize]) -> Vec<Piece> {
    let name = |name: &str| format!("layers.{layer}.{name}");
    let one = |own: &str| vec![Piece::whole(name(own), shape)];
    let (count, own) =
        (config.experts.shared_count, config.experts.shared_length / config.experts.shared_count.max(1));
    let shared = |matrix: &str, axis: usize, first: usize| -> Vec<Piece> {
        let piece = |s| {
            let name = name(&format!("moe.shared_experts.{s}.{matrix}.weight"));
            Piece::whole(name, shape).part(axis, first + s * own, own)
        };
        (0..count).map(piece).collect()
    };
    match role {
        Role::TokenEmbedding => vec![Piece::whole("embed.weight", shape)],
        Role::AttentionNorm => one("norm1.weight"),
        Role::Qkv => qkv_pieces(config, shape, |part| name(&format!("attn.{part}_proj.weight"))),
        Role::QueryNorm => one("attn.q_norm.weight"),
        Role::KeyNorm => one("attn.k_norm.weight"),
        Role::AttentionOutput => one("attn.o_proj.weight"),
        Role::FfnNorm => one("norm2.weight"),
        Role::Router => one("moe.gate.weight"),
        Role::ExpertsUp => GatedNames { gate: name("moe.w1"), up: name("moe.w3") }.halves(shape, 1),
        Role::ExpertsDown => one("moe.w2"),
        Role::SharedUp => [shared("w1", 0, 0), shared("w3", 0, count * own)].concat(),
        Role::SharedDown => shared("w2", 1, 0),
        Role::OutputNorm => vec![Piece::whole("norm.weight", shape)],
        _ => vec![],
    }
}
