//! LFM2 with experts: GGUF `lfm2moe`. A short convolution between two gates in most layers, attention in the others,
//! leading dense layers, experts chosen by sigmoid with a bias and always normalised. The final norm is the embedding's.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::kinds::{self, Kind, Words};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use super::{rope, router};
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "lfm2moe",
    gguf: "lfm2moe",
    classes: &["Lfm2MoeForCausalLM"],
    model_types: &["lfm2_moe"],
    keys: &[
        SIZES,
        EXPERTS,
        &[
            Key("attention.head_count_kv", From::Computed(heads)),
            Key("attention.layer_norm_rms_epsilon", From::Float(&["norm_eps"])),
            Key("rope.*", From::Computed(rotation)),
            Key("shortconv.l_cache", From::Dim(Dim::Taps)),
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("leading_dense_block_count", From::MaybeUint(&["num_dense_layers"])),
            Key("expert_gating_func", From::Uint(2)),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |params, layer| layer >= params.uint(&["num_dense_layers"]).ok().flatten().unwrap_or(0),
};

const WORDS: Words = &[("conv", Kind::Recurrent), ("full_attention", Kind::Attention)];

fn kinds(params: &Params) -> Result<Vec<Kind>> {
    let missing = || Error::malformed("config, layer_types", "conv or full_attention for each layer", "none");
    kinds::listed(params, params.dim(Dim::Layers)?, "layer_types", WORDS)?.ok_or_else(missing)
}

fn convolves(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Recurrent)
}

fn attends(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Attention)
}

fn heads(params: &Params) -> Result<Pairs> {
    let of_keys = kinds::number_where(&kinds(params)?, Kind::Attention, params.dim(Dim::HeadsKv)?);
    Ok(vec![("attention.head_count_kv", of_keys)])
}

/// Heads turn whole, which is what llama.cpp takes without a key.
fn rotation(params: &Params) -> Result<Pairs> {
    let pairs = rope::keys(params)?.into_iter();
    Ok(pairs.filter(|(name, _)| *name != "rope.dimension_count").collect())
}

fn supported(params: &Params) -> Result<Pairs> {
    params.refuse(params.flag(&["conv_bias"], false)?, "conv_bias")?;
    params.refuse(!params.flag(&["norm_topk_prob"], true)?, "norm_topk_prob false")?;
    params.refuse(
        !params.flag(&["tie_embedding"], true)?,
        "tie_embedding false (it goes by tie_word_embeddings)",
    )?;
    let scale = params.float(&["routed_scaling_factor"])?.unwrap_or(1.0);
    params.refuse(scale != 1.0, &format!("routed_scaling_factor {scale}"))?;
    let (width, heads, head) = (params.dim(Dim::Embedding)?, params.dim(Dim::Heads)?, params.dim(Dim::Head)?);
    params.refuse(heads * head != width, &format!("head_dim {head} with {heads} heads in {width}"))?;
    Ok(vec![])
}

fn has_bias(params: &Params) -> bool {
    params.flag(&["use_expert_bias"], true).unwrap_or(true)
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let attention = [
        rule("blk.{i}.attn_q.weight", "model.layers.{i}.self_attn.q_proj.weight", [Q, Embedding]),
        rule("blk.{i}.attn_k.weight", "model.layers.{i}.self_attn.k_proj.weight", [Kv, Embedding]),
        rule("blk.{i}.attn_v.weight", "model.layers.{i}.self_attn.v_proj.weight", [Kv, Embedding]),
        rule("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.out_proj.weight", [Embedding, Q]),
        rule("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_layernorm.weight", [Head]),
        rule("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_layernorm.weight", [Head]),
    ];
    let [taps, input, output] = [
        "model.layers.{i}.conv.conv.weight",
        "model.layers.{i}.conv.in_proj.weight",
        "model.layers.{i}.conv.out_proj.weight",
    ];
    let convolution = [
        rule("blk.{i}.shortconv.conv.weight", taps, [Embedding, Taps]).op(Op::Squeeze),
        rule("blk.{i}.shortconv.in_proj.weight", input, [Embedding3, Embedding]),
        rule("blk.{i}.shortconv.out_proj.weight", output, [Embedding, Embedding]),
    ];
    let mut rules = common::ends();
    rules.retain(|rule| rule.to != "output_norm.weight");
    rules.extend([
        rule("token_embd_norm.weight", "model.embedding_norm.weight", [Embedding]),
        rule("blk.{i}.attn_norm.weight", "model.layers.{i}.operator_norm.weight", [Embedding]),
        rule("blk.{i}.ffn_norm.weight", "model.layers.{i}.ffn_norm.weight", [Embedding]),
    ]);
    rules.extend(attention.map(|rule| rule.in_layers(attends)));
    rules.extend(convolution.map(|rule| rule.in_layers(convolves)));
    rules.extend(networks());
    rules
}

/// Dense networks, and experts one by one (as published) or fused (transformers 5).
fn networks() -> Vec<Rule> {
    use Dim::*;
    let gate_up = "model.layers.{i}.feed_forward.experts.gate_up_proj";
    let [gate, up, down] = [
        "model.layers.{i}.feed_forward.experts.{e}.w1.weight",
        "model.layers.{i}.feed_forward.experts.{e}.w3.weight",
        "model.layers.{i}.feed_forward.experts.{e}.w2.weight",
    ];
    let half = |to, from, part| {
        rule(to, from, [Experts, ExpertFf, Embedding]).or(gate_up).op(Op::Part(part, 2)).in_expert_layers()
    };
    let dense = |to, from, shape: [Dim; 2]| rule(to, from, shape).in_dense_layers();
    vec![
        dense("blk.{i}.ffn_gate.weight", "model.layers.{i}.feed_forward.w1.weight", [Ff, Embedding]),
        dense("blk.{i}.ffn_up.weight", "model.layers.{i}.feed_forward.w3.weight", [Ff, Embedding]),
        dense("blk.{i}.ffn_down.weight", "model.layers.{i}.feed_forward.w2.weight", [Embedding, Ff]),
        rule(
            "blk.{i}.ffn_gate_inp.weight",
            "model.layers.{i}.feed_forward.gate.weight",
            [Experts, Embedding],
        )
        .in_expert_layers(),
        router::choice_bias("model.layers.{i}.feed_forward.expert_bias").when(has_bias),
        half("blk.{i}.ffn_gate_exps.weight", gate, 0),
        half("blk.{i}.ffn_up_exps.weight", up, 1),
        rule("blk.{i}.ffn_down_exps.weight", down, [Experts, Embedding, ExpertFf])
            .or("model.layers.{i}.feed_forward.experts.down_proj")
            .in_expert_layers(),
    ]
}
