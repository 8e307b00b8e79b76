//! OLMoE: GGUF `olmoe`. One norm over all query heads and one over all key heads.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::qwen2moe;
use super::rules::{Rule, rule};
use moewe_engine::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "olmoe",
    gguf: "olmoe",
    classes: &["OlmoeForCausalLM"],
    model_types: &["olmoe"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_weights_norm", From::Computed(qwen2moe::normalised)),
            Key("", From::Computed(common::silu_only)),
            Key("", From::Computed(unclipped)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |_, _| true,
};

fn unclipped(params: &Params) -> Result<Pairs> {
    params.refuse(params.get(&["clip_qkv"]).is_some(), "clip_qkv")?;
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends_with_head();
    rules.extend(common::attention());
    rules.extend(row_norms());
    rules.push(common::ffn_norm());
    rules.extend(common::experts());
    rules
}

/// One norm over all query heads and one over all key heads.
pub(super) fn row_norms() -> [Rule; 2] {
    [
        rule("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight", [Dim::Q]),
        rule("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight", [Dim::Kv]),
    ]
}
