//! 124M-MoE: learned positions, layer norms, experts with biases, an untied head. The load-balance loss and the z-loss
//! that its description promises stand under keys of our own.

use super::config::{Architecture, Balance, Biases, Config, Experts, Initialisation, Position};
use super::keys::Keys;
use super::roles::{Piece, Role};
use crate::Result;
use crate::ops::{Activation, NormKind};
use serde_json::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    model_type: "moe_124m",
    class: "MoETransformer",
    vocabulary_key: "vocab_size",
    context_key: "context_len",
    read,
    pieces,
    fused: |_, _, _| None,
    dense_twin: |_, _| None,
};

fn read(keys: &Keys) -> Result<Config> {
    let (embedding, heads) = (keys.count("dim")?, keys.count("n_heads")?);
    let head = keys.quotient("dim", embedding, heads)?;
    keys.always("head_dim", head)?;
    keys.always("num_key_value_heads", heads)?;
    keys.always("tie_word_embeddings", false)?;
    keys.unused("capacity_factor");
    let layers = keys.count("n_layers")?;
    Ok(Config {
        architecture: &ARCHITECTURE,
        source: Value::Null,
        vocabulary: keys.count("vocab_size")?,
        context_length: keys.count("context_len")?,
        embedding_length: embedding,
        block_count: layers,
        head_count: heads,
        head_count_kv: heads,
        head_length: head,
        norm: NormKind::Layer,
        norm_epsilon: 1e-5,
        head_norm: None,
        position: Position::Learned,
        bias: Biases { dense: false, experts: true },
        tied: false,
        activation: Activation::Swiglu,
        feed_forward_length: 0,
        routed: vec![true; layers],
        experts: Experts {
            count: keys.count("n_experts")?,
            used: keys.count_or("top_k", 2)?,
            length: keys.count("ff_dim")?,
            shared_length: 0,
            shared_count: 0,
            capacity: None,
            noise: false,
            normalised: true,
            balance: Balance::PerLayer,
            load_balance: keys.number_or("balance_loss_coef", 0.01)?,
            router_z: keys.number_or("z_loss_coef", 0.001)?,
        },
        dropout: 0.0,
        initialisation: Initialisation::Torch,
    })
}

fn pieces(config: &Config, role: Role, layer: usize, shape: &[usize]) -> Vec<Piece> {
    let one = |name: &str| vec![Piece::whole(format!("blocks.{layer}.{name}"), shape)];
    let each = |name: &str| -> Vec<Piece> {
        let piece = |e| Piece::whole(format!("blocks.{layer}.moe.experts.{e}.ffn.{name}"), shape).expert(e);
        (0..config.experts.count).map(piece).collect()
    };
    match role {
        Role::TokenEmbedding => vec![Piece::whole("token_emb.weight", shape)],
        Role::PositionEmbedding => vec![Piece::whole("pos_emb.weight", shape)],
        Role::AttentionNorm => one("ln1.weight"),
        Role::AttentionNormBias => one("ln1.bias"),
        Role::Qkv => one("attn.qkv.weight"),
        Role::AttentionOutput => one("attn.out.weight"),
        Role::FfnNorm => one("ln2.weight"),
        Role::FfnNormBias => one("ln2.bias"),
        Role::Router => one("moe.router.linear.weight"),
        Role::ExpertsUp => each("w1.weight"),
        Role::ExpertsUpBias => each("w1.bias"),
        Role::ExpertsDown => each("w2.weight"),
        Role::ExpertsDownBias => each("w2.bias"),
        Role::OutputNorm => vec![Piece::whole("ln_f.weight", shape)],
        Role::OutputNormBias => vec![Piece::whole("ln_f.bias", shape)],
        Role::Output => vec![Piece::whole("head.weight", shape)],
        _ => vec![],
    }
}
