//! What Llama and its descendants share: the keys of config.json and the tensor names, with what differs as data.

use super::config::{Architecture, Balance, Biases, Config, Experts, HeadNorms, Initialisation, Position};
use super::keys::Keys;
use super::names::qkv_pieces;
use super::roles::{Piece, Role};
use crate::Result;
use crate::ops::{Activation, NormKind, RotationStyle};
use serde_json::Value;

/// What a descendant leaves out of its config.json, and what it has besides.
pub(super) struct Kind {
    pub(super) architecture: &'static Architecture,
    /// Numbers of a head where no key says so; `None` divides the embedding.
    pub(super) head: Option<usize>,
    pub(super) epsilon: f64,
    pub(super) theta: f64,
    pub(super) norms: Option<HeadNorms>,
    pub(super) window: Window,
}

/// Whether attention reaches back only so far.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Window {
    /// There is no such key.
    Never,
    /// `sliding_window`, with transformers' default where the key is missing.
    Key(Option<usize>),
    /// `sliding_window` where `use_sliding_window` is set.
    Switched,
}

/// The model of `kind` with dense networks in every layer; those with experts change this.
pub(super) fn read(keys: &Keys, kind: &Kind) -> Result<Config> {
    let (embedding, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
    let head = match (keys.maybe("head_dim")?, kind.head) {
        (Some(head), _) | (None, Some(head)) if head > 0 && head.is_multiple_of(2) => head,
        (Some(head), _) => return Err(keys.wrong("head_dim", "an even number from 2", head)),
        (None, _) => keys.quotient("hidden_size", embedding, heads)?,
    };
    let context = keys.count("max_position_embeddings")?;
    check_window(keys, kind.window, context)?;
    keys.always("hidden_act", "silu")?;
    keys.always("attention_dropout", 0.0)?;
    keys.always("attention_bias", false)?;
    keys.always("mlp_bias", false)?;
    let layers = keys.count("num_hidden_layers")?;
    Ok(Config {
        architecture: kind.architecture,
        source: Value::Null,
        vocabulary: keys.count("vocab_size")?,
        context_length: context,
        embedding_length: embedding,
        block_count: layers,
        head_count: heads,
        head_count_kv: keys.count("num_key_value_heads")?,
        head_length: head,
        norm: NormKind::Rms,
        norm_epsilon: keys.number_or("rms_norm_eps", kind.epsilon)?,
        head_norm: kind.norms,
        position: Position::Rotary { style: RotationStyle::Halves, theta: keys.rope_theta(kind.theta)? },
        bias: Biases { dense: false, experts: false },
        tied: keys.flag_or("tie_word_embeddings", false)?,
        activation: Activation::Swiglu,
        feed_forward_length: 0,
        routed: vec![false; layers],
        experts: Experts::none(),
        dropout: 0.0,
        initialisation: Initialisation::Normal(keys.number_or("initializer_range", 0.02)?),
    })
}

/// The experts of `hidden` numbers each, as many as config.json says under `count`, whose balance is counted over all layers together.
pub(super) fn experts(keys: &Keys, count: &str, hidden: usize, coefficient: f64) -> Result<Experts> {
    Ok(Experts {
        count: keys.count(count)?,
        used: keys.count("num_experts_per_tok")?,
        length: hidden,
        balance: Balance::AllLayers,
        load_balance: keys.number_or("router_aux_loss_coef", coefficient)?,
        router_z: keys.number_or("router_z_loss_coef", 0.0)?,
        ..Experts::none()
    })
}

/// Refuses a window that rows of the context would reach beyond.
fn check_window(keys: &Keys, window: Window, context: usize) -> Result<()> {
    let default = match window {
        Window::Never => return Ok(()),
        Window::Key(default) => default,
        Window::Switched => {
            keys.unused("max_window_layers");
            full_attention(keys)?;
            if !keys.flag_or("use_sliding_window", false)? {
                keys.unused("sliding_window");
                return Ok(());
            }
            Some(4096)
        }
    };
    let window = match keys.maybe("sliding_window")? {
        None if keys.is_missing("sliding_window") => default,
        window => window,
    };
    match window.filter(|&window| window > 0 && window < context) {
        Some(window) => {
            let expected = format!("null or at least the context of {context}: no window is trained");
            Err(keys.wrong("sliding_window", &expected, window))
        }
        None => Ok(()),
    }
}

/// Refuses layers that do not see all that is before them.
fn full_attention(keys: &Keys) -> Result<()> {
    let kinds = keys.texts("layer_types")?;
    match kinds.iter().find(|kind| *kind != "full_attention") {
        Some(kind) => Err(keys.wrong("layer_types", "full_attention alone: no window is trained", kind)),
        None => Ok(()),
    }
}

/// Names of everything but experts.
pub(super) fn pieces(config: &Config, role: Role, layer: usize, shape: &[usize]) -> Vec<Piece> {
    let name = |name: &str| format!("model.layers.{layer}.{name}");
    let one = |own: &str| vec![Piece::whole(name(own), shape)];
    match role {
        Role::TokenEmbedding => vec![Piece::whole("model.embed_tokens.weight", shape)],
        Role::AttentionNorm => one("input_layernorm.weight"),
        Role::Qkv => qkv_pieces(config, shape, |part| name(&format!("self_attn.{part}_proj.weight"))),
        Role::QueryNorm => one("self_attn.q_norm.weight"),
        Role::KeyNorm => one("self_attn.k_norm.weight"),
        Role::AttentionOutput => one("self_attn.o_proj.weight"),
        Role::FfnNorm => one("post_attention_layernorm.weight"),
        Role::Up => {
            let half = shape[0] / 2;
            let part = |own: &str, start| Piece::whole(name(own), shape).part(0, start, half);
            vec![part("mlp.gate_proj.weight", 0), part("mlp.up_proj.weight", half)]
        }
        Role::Down => one("mlp.down_proj.weight"),
        Role::Router => one("mlp.gate.weight"),
        Role::ExpertsUp => expert_pieces(config, shape, |e, matrix| {
            let part = if matrix == 0 { "gate" } else { "up" };
            name(&format!("mlp.experts.{e}.{part}_proj.weight"))
        }),
        Role::ExpertsDown => (0..config.experts.count)
            .map(|e| Piece::whole(name(&format!("mlp.experts.{e}.down_proj.weight")), shape).expert(e))
            .collect(),
        Role::OutputNorm => vec![Piece::whole("model.norm.weight", shape)],
        Role::Output => vec![Piece::whole("lm_head.weight", shape)],
        _ => vec![],
    }
}

/// Gate (0) and up (1) of every expert, one after the other.
pub(super) fn expert_pieces(
    config: &Config,
    shape: &[usize],
    name: impl Fn(usize, usize) -> String,
) -> Vec<Piece> {
    let hidden = config.experts.length;
    let part = |e: usize, matrix: usize| {
        Piece::whole(name(e, matrix), shape).part(1, matrix * hidden, hidden).expert(e)
    };
    (0..config.experts.count).flat_map(|e| [part(e, 0), part(e, 1)]).collect()
}

/// The names of newer releases, in which the experts of a layer are one tensor.
pub(super) fn fused(role: Role, layer: usize, shape: &[usize]) -> Option<Piece> {
    let name = |own: &str| Some(Piece::whole(format!("model.layers.{layer}.mlp.{own}"), shape));
    match role {
        Role::Router => name("gate.weight"),
        Role::ExpertsUp => name("experts.gate_up_proj"),
        Role::ExpertsDown => name("experts.down_proj"),
        _ => None,
    }
}

/// The network of a dense Llama, Mistral or Qwen3.
pub(super) fn dense_twin(role: Role, layer: usize) -> Option<Vec<String>> {
    let name = |matrix: &str| format!("model.layers.{layer}.mlp.{matrix}_proj.weight");
    match role {
        Role::ExpertsUp => Some(vec![name("gate"), name("up")]),
        Role::ExpertsDown => Some(vec![name("down")]),
        _ => None,
    }
}
