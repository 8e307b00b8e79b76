//! DeepSeek V2 and V3, Moonlight, Kimi K2, GLM-4.7-Flash: GGUF `deepseek2`. As llama.cpp converts today: the key-value
//! up-projection is split per head into `attn_k_b` (transposed) and `attn_v_b`, and metadata describe what a cached
//! position holds (one latent head), with the real head sizes under `*_mla`. Rotated parts are pairs of neighbours on
//! both sides: nothing is permuted. Kimi's tower for images is left out.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use super::{rope, router};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek2",
    gguf: "deepseek2",
    classes: &[
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "Glm4MoeLiteForCausalLM",
        "KimiK25ForConditionalGeneration",
        "Kimi_K25ForConditionalGeneration",
    ],
    model_types: &["deepseek_v3", "deepseek_v2", "kimi_k2", "glm4_moe_lite", "kimi_k25"],
    keys: &[SIZES, EXPERTS, router::WEIGHTS, LATENT, &[Key("", From::Computed(router_keys))]],
    rules,
    computed: &[],
    ignored: &[
        IGNORED,
        &["vision_tower.*", "model.vision_tower.*", "mm_projector.*", "model.mm_projector.*"],
    ],
    expert_layer,
};

/// Latent attention, and the experts of layers that follow dense ones.
pub(super) const LATENT: &[Key] = &[
    Key("attention.head_count_kv", From::Uint(1)),
    Key("attention.layer_norm_rms_epsilon", From::Float(&["rms_norm_eps"])),
    Key("rope.*", From::Computed(rope::keys)),
    Key("attention.q_lora_rank", From::Computed(q_rank)),
    Key("attention.kv_lora_rank", From::Dim(Dim::KvRank)),
    Key("attention.key_length", From::Dim(Dim::KvLatent)),
    Key("attention.value_length", From::Dim(Dim::KvRank)),
    Key("attention.key_length_mla", From::Dim(Dim::HeadKey)),
    Key("attention.value_length_mla", From::Dim(Dim::HeadValue)),
    Key("", From::Computed(leading_key)),
    Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
    Key("expert_shared_count", From::Dim(Dim::ExpertsShared)),
    Key("", From::Computed(supported)),
    Key("", From::Computed(common::silu_only)),
];

/// Layers in front that have no experts.
fn leading(params: &Params) -> Result<u64> {
    let stated = params.uint(&["first_k_dense_replace"])?;
    let Some((_, kinds)) = params.get(&["mlp_layer_types"]) else {
        if !params.is("glm4_moe_lite") {
            return Ok(stated.unwrap_or(0));
        }
        // The class does not read the number and has one such layer.
        params.refuse(stated.is_some_and(|stated| stated != 1), "first_k_dense_replace other than 1")?;
        return Ok(1);
    };
    let layers = params.dim(Dim::Layers)?;
    let kinds = kinds.as_array().filter(|kinds| kinds.len() as u64 == layers);
    let kinds = kinds.ok_or_else(|| {
        Error::malformed("config, mlp_layer_types", format!("a list of {layers}"), "another")
    })?;
    let leading = kinds.iter().take_while(|kind| *kind == "dense").count();
    let rest_is_sparse = kinds[leading..].iter().all(|kind| kind == "sparse");
    params.refuse(!rest_is_sparse, "mlp_layer_types that change more than once")?;
    Ok(leading as u64)
}

fn leading_key(params: &Params) -> Result<Pairs> {
    Ok(vec![("leading_dense_block_count", Value::from(leading(params)? as u32))])
}

pub(super) fn expert_layer(params: &Params, layer: u64) -> bool {
    let step = params.uint(&["moe_layer_freq"]).ok().flatten().unwrap_or(1).max(1);
    layer >= leading(params).unwrap_or(0) && layer.is_multiple_of(step)
}

/// DeepSeek V2 weighs experts by softmax, all later ones by sigmoid.
fn router_keys(params: &Params) -> Result<Pairs> {
    if !params.is("deepseek_v2") {
        return router::sigmoid(params);
    }
    let scoring = params.text(&["scoring_func"])?.unwrap_or("softmax");
    params.refuse(scoring != "softmax", &format!("scoring_func {scoring:?}"))?;
    // The class of transformers does not normalise even then; the original's code does.
    params.refuse(params.flag(&["norm_topk_prob"], false)?, "norm_topk_prob, on which codes disagree")?;
    let mut pairs: Pairs = vec![("expert_gating_func", Value::from(1u32))];
    // Groups count only where the choice is limited to some of them.
    match params.text(&["topk_method"])?.unwrap_or("none") {
        "greedy" => {}
        "group_limited_greedy" => pairs.extend(router::groups(params)?),
        other => params.refuse(true, &format!("topk_method {other:?}"))?,
    }
    Ok(pairs)
}

fn has_choice_bias(params: &Params) -> bool {
    !params.is("deepseek_v2")
}

/// Refuses what the classes compute and files of this architecture cannot say.
fn supported(params: &Params) -> Result<Pairs> {
    params.refuse(params.flag(&["attention_bias"], false)?, "attention_bias")?;
    params.refuse(!params.flag(&["rope_interleave"], true)?, "rope_interleave false")?;
    Ok(vec![])
}

/// llama.cpp insists on the key in all models but those of 26 or 27 layers; 0 means that there is no such rank.
fn q_rank(params: &Params) -> Result<Pairs> {
    let rank = params.maybe(Dim::QRank)?.unwrap_or(0);
    Ok(vec![("attention.q_lora_rank", Value::from(rank as u32))])
}

fn has_q_rank(params: &Params) -> bool {
    params.maybe(Dim::QRank).ok().flatten().is_some()
}

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(latent_attention());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules
        .push(router::choice_bias("model.layers.{i}.mlp.gate.e_score_correction_bias").when(has_choice_bias));
    rules.extend(common::shared_experts());
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
