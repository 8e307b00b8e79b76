//! Rows that many architectures share: Hugging Face's Llama layout, dense and expert feed-forward layers.

use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rope;
use super::rules::{Op, Rule, rule};
use moewe_engine::Result;

/// Sizes that every architecture has.
pub(super) const SIZES: &[Key] = &[
    Key("block_count", From::Dim(Dim::Layers)),
    Key("context_length", From::Dim(Dim::Context)),
    Key("embedding_length", From::Dim(Dim::Embedding)),
    Key("feed_forward_length", From::Dim(Dim::Ff)),
    Key("attention.head_count", From::Dim(Dim::Heads)),
    Key("vocab_size", From::Dim(Dim::Vocab)),
];

/// Sizes of an architecture whose dense layers, if it has any, are described elsewhere.
pub(super) const BODY: &[Key] = &[
    Key("block_count", From::Dim(Dim::Layers)),
    Key("context_length", From::Dim(Dim::Context)),
    Key("embedding_length", From::Dim(Dim::Embedding)),
    Key("attention.head_count", From::Dim(Dim::Heads)),
    Key("vocab_size", From::Dim(Dim::Vocab)),
];

/// Grouped attention with RMS norms and rotary positions.
pub(super) const GROUPED: &[Key] = &[
    Key("attention.head_count_kv", From::Dim(Dim::HeadsKv)),
    Key("attention.key_length", From::Dim(Dim::Head)),
    Key("attention.value_length", From::Dim(Dim::Head)),
    Key("attention.layer_norm_rms_epsilon", From::Float(&["rms_norm_eps"])),
    Key("rope.*", From::Computed(rope::keys)),
];

/// Routed experts.
pub(super) const EXPERTS: &[Key] =
    &[Key("expert_count", From::Dim(Dim::Experts)), Key("expert_used_count", From::Dim(Dim::ExpertsUsed))];

/// Refuses what none of the Llama-like architectures computes.
pub(super) fn silu_only(params: &Params) -> Result<Pairs> {
    let activation = params.text(&["hidden_act"])?.unwrap_or("silu");
    params.refuse(
        !matches!(activation, "silu" | "swish"),
        &format!("the activation {activation:?} (only silu is known)"),
    )?;
    let window = params.uint(&["sliding_window"])?.unwrap_or(u64::MAX);
    // Mistral and Mixtral carry theirs over; a window that no context fills hides nothing.
    if params.raw("use_sliding_window").is_some() && window < params.dim(Dim::Context)? {
        params.refuse(has_sliding_layers(params)?, "a sliding window (use_sliding_window, layer_types)")?;
    }
    Ok(vec![])
}

/// Whether Qwen's classes let a layer look back only so far.
fn has_sliding_layers(params: &Params) -> Result<bool> {
    if let Some((_, types)) = params.get(&["layer_types"]) {
        let types = types.as_array().into_iter().flatten();
        return Ok(types.into_iter().any(|kind| kind != "full_attention"));
    }
    let first = params.uint(&["max_window_layers"])?.unwrap_or(0);
    let some = match params.class().map(|class| class.name) {
        Some("qwen2" | "qwen3") => first < params.dim(Dim::Layers)?,
        _ => true,
    };
    Ok(params.flag(&["use_sliding_window"], false)? && some)
}

/// Biases on queries, keys and values.
pub(super) fn qkv_biased(params: &Params) -> bool {
    let flag = |name: &str| params.flag(&[name], false).unwrap_or(false);
    params.is("qwen2") || flag("qkv_bias") || flag("attention_bias")
}

/// A bias on what attention yields.
fn output_biased(params: &Params) -> bool {
    params.flag(&["attention_bias"], false).unwrap_or(false)
}

/// Biases in dense feed-forward layers.
fn ffn_biased(params: &Params) -> bool {
    params.flag(&["mlp_bias"], false).unwrap_or(false)
}

/// Whether the head has weights of its own, as the configuration and the checkpoint say together (`tied.rs`).
pub(super) fn untied(params: &Params) -> bool {
    !params.flag(&["tie_word_embeddings"], false).unwrap_or(false)
}

/// Whether the head is the embedding.
pub(super) fn tied(params: &Params) -> bool {
    !untied(params)
}

/// Tensors that hold nothing to convert: recomputable tables, and a head that is the embedding once more.
pub(super) const IGNORED: &[&str] = &[
    "lm_head.weight",
    "model.layers.{i}.self_attn.rotary_emb.inv_freq",
    "model.layers.{i}.self_attn.masked_bias",
    "model.rotary_emb.inv_freq",
];

/// Embedding, final norm, and the head where it is not the embedding. One matrix for both may go by either name.
pub(super) fn ends() -> Vec<Rule> {
    use Dim::*;
    vec![
        rule("token_embd.weight", "model.embed_tokens.weight", [Vocab, Embedding])
            .or("lm_head.weight")
            .only_if(tied),
        rule("output_norm.weight", "model.norm.weight", [Embedding]),
        rule("output.weight", "lm_head.weight", [Vocab, Embedding]).when(untied),
    ]
}

/// The same for architectures whose head llama.cpp wants to see even where it is the embedding.
pub(super) fn ends_with_head() -> Vec<Rule> {
    let mut rules = ends();
    rules.pop();
    let head = rule("output.weight", "lm_head.weight", [Dim::Vocab, Dim::Embedding]);
    let head = head.only_if(untied).or("model.embed_tokens.weight").only_if(tied);
    rules.push(head.or("lm_head.weight").only_if(tied));
    rules
}

/// Grouped attention with its norm; heads that turn half against half (llama.cpp's NEOX).
pub(super) fn attention() -> Vec<Rule> {
    use Dim::*;
    vec![
        rule("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight", [Embedding]),
        rule("blk.{i}.attn_q.weight", "model.layers.{i}.self_attn.q_proj.weight", [Q, Embedding]),
        rule("blk.{i}.attn_k.weight", "model.layers.{i}.self_attn.k_proj.weight", [Kv, Embedding]),
        rule("blk.{i}.attn_v.weight", "model.layers.{i}.self_attn.v_proj.weight", [Kv, Embedding]),
        rule("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.o_proj.weight", [Embedding, Q]),
        rule("blk.{i}.attn_q.bias", "model.layers.{i}.self_attn.q_proj.bias", [Q]).when(qkv_biased),
        rule("blk.{i}.attn_k.bias", "model.layers.{i}.self_attn.k_proj.bias", [Kv]).when(qkv_biased),
        rule("blk.{i}.attn_v.bias", "model.layers.{i}.self_attn.v_proj.bias", [Kv]).when(qkv_biased),
        rule("blk.{i}.attn_output.bias", "model.layers.{i}.self_attn.o_proj.bias", [Embedding])
            .when(output_biased),
    ]
}

/// The same for architectures that llama.cpp turns in neighbouring pairs (NORM): rows of q and k change places.
pub(super) fn attention_in_pairs() -> Vec<Rule> {
    let pairs = |rule: Rule| match rule.to {
        "blk.{i}.attn_q.weight" | "blk.{i}.attn_q.bias" => rule.op(Op::PairHalves(Dim::Heads)),
        "blk.{i}.attn_k.weight" | "blk.{i}.attn_k.bias" => rule.op(Op::PairHalves(Dim::HeadsKv)),
        _ => rule,
    };
    attention().into_iter().map(pairs).collect()
}

/// A norm over each head of queries and keys.
pub(super) fn head_norms() -> Vec<Rule> {
    vec![
        rule("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight", [Dim::Head]),
        rule("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight", [Dim::Head]),
    ]
}

/// The norm before the feed-forward layer.
pub(super) fn ffn_norm() -> Rule {
    rule("blk.{i}.ffn_norm.weight", "model.layers.{i}.post_attention_layernorm.weight", [Dim::Embedding])
}

/// A gated feed-forward layer in layers without experts.
pub(super) fn dense() -> Vec<Rule> {
    use Dim::*;
    [
        rule("blk.{i}.ffn_gate.weight", "model.layers.{i}.mlp.gate_proj.weight", [Ff, Embedding]),
        rule("blk.{i}.ffn_up.weight", "model.layers.{i}.mlp.up_proj.weight", [Ff, Embedding]),
        rule("blk.{i}.ffn_down.weight", "model.layers.{i}.mlp.down_proj.weight", [Embedding, Ff]),
        rule("blk.{i}.ffn_gate.bias", "model.layers.{i}.mlp.gate_proj.bias", [Ff]).when(ffn_biased),
        rule("blk.{i}.ffn_up.bias", "model.layers.{i}.mlp.up_proj.bias", [Ff]).when(ffn_biased),
        rule("blk.{i}.ffn_down.bias", "model.layers.{i}.mlp.down_proj.bias", [Embedding]).when(ffn_biased),
    ]
    .into_iter()
    .map(Rule::in_dense_layers)
    .collect()
}

/// Router and experts under `mlp`: one matrix per expert (transformers 4) or fused over experts and gate-up (5).
pub(super) fn experts() -> Vec<Rule> {
    use Dim::*;
    [
        rule("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.mlp.gate.weight", [Experts, Embedding]),
        rule(
            "blk.{i}.ffn_gate_exps.weight",
            "model.layers.{i}.mlp.experts.{e}.gate_proj.weight",
            [Experts, ExpertFf, Embedding],
        )
        .or("model.layers.{i}.mlp.experts.gate_up_proj")
        .op(Op::Part(0, 2)),
        rule(
            "blk.{i}.ffn_up_exps.weight",
            "model.layers.{i}.mlp.experts.{e}.up_proj.weight",
            [Experts, ExpertFf, Embedding],
        )
        .or("model.layers.{i}.mlp.experts.gate_up_proj")
        .op(Op::Part(1, 2)),
        rule(
            "blk.{i}.ffn_down_exps.weight",
            "model.layers.{i}.mlp.experts.{e}.down_proj.weight",
            [Experts, Embedding, ExpertFf],
        )
        .or("model.layers.{i}.mlp.experts.down_proj"),
    ]
    .into_iter()
    .map(Rule::in_expert_layers)
    .collect()
}

/// Experts that every token uses, as one network (DeepSeek's names).
pub(super) fn shared_experts() -> impl Iterator<Item = Rule> {
    use Dim::*;
    let under = |to, from, shape: [Dim; 2]| rule(to, from, shape).in_expert_layers();
    let [gate, up, down] = [
        "model.layers.{i}.mlp.shared_experts.gate_proj.weight",
        "model.layers.{i}.mlp.shared_experts.up_proj.weight",
        "model.layers.{i}.mlp.shared_experts.down_proj.weight",
    ];
    [
        under("blk.{i}.ffn_gate_shexp.weight", gate, [SharedFf, Embedding]),
        under("blk.{i}.ffn_up_shexp.weight", up, [SharedFf, Embedding]),
        under("blk.{i}.ffn_down_shexp.weight", down, [Embedding, SharedFf]),
    ]
    .into_iter()
}

/// Qwen: every `decoder_sparse_step`-th layer has experts, except those that the configuration names.
pub(super) fn sparse_step(params: &Params, layer: u64) -> bool {
    let step = params.uint(&["decoder_sparse_step"]).ok().flatten().unwrap_or(1).max(1);
    let listed = params.get(&["mlp_only_layers"]).and_then(|(_, list)| list.as_array());
    let dense = listed.is_some_and(|list| list.iter().any(|item| item.as_u64() == Some(layer)));
    !dense && (layer + 1).is_multiple_of(step)
}
