//! DeepSeek V2: GGUF `deepseek2`. As llama.cpp converts today: the key-value up-projection is split per head into
//! `attn_k_b` (transposed) and `attn_v_b`, and metadata describe what a cached position holds (one latent head), with
//! the real head sizes under `*_mla`. Rotated parts are pairs of neighbours on both sides: nothing is permuted.

use super::Architecture;
use super::common::{self, EXPERTS, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rope;
use super::rules::{Op, Rule, rule};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek2",
    gguf: "deepseek2",
    classes: &["DeepseekV2ForCausalLM"],
    model_types: &["deepseek_v2"],
    keys: &[
        SIZES,
        EXPERTS,
        &[
            Key("attention.head_count_kv", From::Uint(1)),
            Key("attention.layer_norm_rms_epsilon", From::Float(&["rms_norm_eps"])),
            Key("rope.*", From::Computed(rope::keys)),
            Key("attention.q_lora_rank", From::Computed(q_rank)),
            Key("attention.kv_lora_rank", From::Dim(Dim::KvRank)),
            Key("attention.key_length", From::Dim(Dim::KvLatent)),
            Key("attention.value_length", From::Dim(Dim::KvRank)),
            Key("attention.key_length_mla", From::Dim(Dim::HeadKey)),
            Key("attention.value_length_mla", From::Dim(Dim::HeadValue)),
            Key("leading_dense_block_count", From::MaybeUint(&["first_k_dense_replace"])),
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_count", From::Dim(Dim::ExpertsShared)),
            Key("expert_weights_scale", From::Float(&["routed_scaling_factor"])),
            Key("expert_weights_norm", From::Flag(&["norm_topk_prob"])),
            Key("expert_gating_func", From::Uint(1)),
            Key("expert_group_count", From::Computed(groups)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer,
};

fn expert_layer(params: &Params, layer: u64) -> bool {
    let number = |name: &str, default: u64| params.uint(&[name]).ok().flatten().unwrap_or(default);
    layer >= number("first_k_dense_replace", 0) && layer.is_multiple_of(number("moe_layer_freq", 1).max(1))
}

/// Groups of experts count only where the choice is limited to some of them.
fn groups(params: &Params) -> Result<Pairs> {
    let scoring = params.text(&["scoring_func"])?.unwrap_or("softmax");
    params.refuse(scoring != "softmax", &format!("scoring_func {scoring:?}"))?;
    // The class of transformers does not normalise even then; the original's code does.
    params.refuse(params.flag(&["norm_topk_prob"], false)?, "norm_topk_prob, on which codes disagree")?;
    match params.text(&["topk_method"])?.unwrap_or("none") {
        "greedy" => return Ok(vec![]),
        "group_limited_greedy" => {}
        other => params.refuse(true, &format!("topk_method {other:?}"))?,
    }
    let count = |name: &str| {
        let number = params.uint(&[name])?.filter(|&number| number > 0);
        number.ok_or_else(|| Error::malformed(format!("config, {name}"), "a number of groups", "none"))
    };
    let (groups, used, experts) = (count("n_group")?, count("topk_group")?, params.dim(Dim::Experts)?);
    if experts % groups != 0 || used > groups {
        let found = format!("{used} of {groups}");
        return Err(Error::malformed(
            "config, n_group",
            format!("groups that divide {experts} experts"),
            found,
        ));
    }
    Ok(vec![
        ("expert_group_count", Value::from(groups as u32)),
        ("expert_group_used_count", Value::from(used as u32)),
    ])
}

/// llama.cpp insists on the key in all models but those of 26 or 27 layers; 0 means that there is no such rank.
fn q_rank(params: &Params) -> Result<Pairs> {
    let rank = params.maybe(Dim::QRank)?.unwrap_or(0);
    Ok(vec![("attention.q_lora_rank", Value::from(rank as u32))])
}

fn has_q_rank(params: &Params) -> bool {
    params.maybe(Dim::QRank).ok().flatten().is_some()
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(latent_attention());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules.extend(shared());
    rules
}

fn latent_attention() -> Vec<Rule> {
    use Dim::*;
    let kv_b = "model.layers.{i}.self_attn.kv_b_proj.weight";
    vec![
        rule("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight", [Embedding]),
        rule("blk.{i}.attn_q.weight", "model.layers.{i}.self_attn.q_proj.weight", [Keys, Embedding])
            .when(|params| !has_q_rank(params)),
        rule("blk.{i}.attn_q_a.weight", "model.layers.{i}.self_attn.q_a_proj.weight", [QRank, Embedding])
            .when(has_q_rank),
        rule("blk.{i}.attn_q_a_norm.weight", "model.layers.{i}.self_attn.q_a_layernorm.weight", [QRank])
            .when(has_q_rank),
        rule("blk.{i}.attn_q_b.weight", "model.layers.{i}.self_attn.q_b_proj.weight", [Keys, QRank])
            .when(has_q_rank),
        rule(
            "blk.{i}.attn_kv_a_mqa.weight",
            "model.layers.{i}.self_attn.kv_a_proj_with_mqa.weight",
            [KvLatent, Embedding],
        ),
        rule("blk.{i}.attn_kv_a_norm.weight", "model.layers.{i}.self_attn.kv_a_layernorm.weight", [KvRank]),
        rule("blk.{i}.attn_k_b.weight", kv_b, [Heads, KvRank, HeadPlain])
            .op(Op::SplitHeads(Heads, HeadPlain, true))
            .op(Op::Transpose),
        rule("blk.{i}.attn_v_b.weight", kv_b, [Heads, HeadValue, KvRank])
            .op(Op::SplitHeads(Heads, HeadPlain, false)),
        rule("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.o_proj.weight", [Embedding, Values]),
    ]
}

fn shared() -> impl Iterator<Item = Rule> {
    use Dim::*;
    [
        rule(
            "blk.{i}.ffn_gate_shexp.weight",
            "model.layers.{i}.mlp.shared_experts.gate_proj.weight",
            [SharedFf, Embedding],
        ),
        rule(
            "blk.{i}.ffn_up_shexp.weight",
            "model.layers.{i}.mlp.shared_experts.up_proj.weight",
            [SharedFf, Embedding],
        ),
        rule(
            "blk.{i}.ffn_down_shexp.weight",
            "model.layers.{i}.mlp.shared_experts.down_proj.weight",
            [Embedding, SharedFf],
        ),
    ]
    .into_iter()
    .map(Rule::in_expert_layers)
}
