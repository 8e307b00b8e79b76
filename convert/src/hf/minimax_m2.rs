//! MiniMax M2: GGUF `minimax-m2`. One norm over all query heads and one over all key heads, half of each head turned,
//! experts in every layer, weighed by sigmoid and always normalised, so that no key says it.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use super::{olmoe, router};
use moewe_engine::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "minimax_m2",
    gguf: "minimax-m2",
    classes: &["MiniMaxM2ForCausalLM"],
    model_types: &["minimax_m2"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::Ff)),
            Key("expert_gating_func", From::Uint(2)),
            Key("", From::Computed(supported)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |_, _| true,
};

/// The configuration names what its publisher's earlier models did otherwise.
fn supported(params: &Params) -> Result<Pairs> {
    router::scores_are_sigmoid(params)?;
    params.refuse(!params.flag(&["use_routing_bias"], true)?, "use_routing_bias false")?;
    params.refuse(!params.flag(&["use_qk_norm"], true)?, "use_qk_norm false")?;
    let norm = params.text(&["qk_norm_type"])?.unwrap_or("per_layer");
    params.refuse(norm != "per_layer", &format!("qk_norm_type {norm:?}"))?;
    let kinds = params.get(&["attn_type_list"]).and_then(|(_, kinds)| kinds.as_array());
    let is_full = |kind: &serde_json::Value| kind == 1;
    params.refuse(!kinds.into_iter().flatten().all(is_full), "attn_type_list with linear attention")?;
    params.refuse(params.maybe(Dim::SharedFf)?.unwrap_or(0) > 0, "shared_intermediate_size above 0")?;
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention());
    rules.extend(olmoe::row_norms());
    rules.push(common::ffn_norm());
    rules.extend(experts());
    rules
}

/// In the names that its publisher took from Mixtral, and those of transformers 5.
fn experts() -> Vec<Rule> {
    use Dim::*;
    let gate_up = "model.layers.{i}.mlp.experts.gate_up_proj";
    vec![
        rule(
            "blk.{i}.ffn_gate_inp.weight",
            "model.layers.{i}.block_sparse_moe.gate.weight",
            [Experts, Embedding],
        )
        .or("model.layers.{i}.mlp.gate.weight"),
        router::choice_bias("model.layers.{i}.block_sparse_moe.e_score_correction_bias")
            .or("model.layers.{i}.mlp.e_score_correction_bias"),
        rule(
            "blk.{i}.ffn_gate_exps.weight",
            "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight",
            [Experts, Ff, Embedding],
        )
        .or(gate_up)
        .op(Op::Part(0, 2)),
        rule(
            "blk.{i}.ffn_up_exps.weight",
            "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight",
            [Experts, Ff, Embedding],
        )
        .or(gate_up)
        .op(Op::Part(1, 2)),
        rule(
            "blk.{i}.ffn_down_exps.weight",
            "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight",
            [Experts, Embedding, Ff],
        )
        .or("model.layers.{i}.mlp.experts.down_proj"),
    ]
}
