//! Llama, Mistral and Mixtral: GGUF `llama`. Experts in the layout of 2023 (`block_sparse_moe`) and in the fused one
//! that transformers 5 writes. q and k rows are permuted, because llama.cpp turns neighbouring pairs here.

use super::common::{self, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use super::{Architecture, rope};
use moewe_engine::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    gguf: "llama",
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"],
    model_types: &["llama", "mistral", "mixtral"],
    keys: &[
        SIZES,
        GROUPED,
        &[
            Key("expert_count", From::MaybeDim(Dim::Experts)),
            Key("expert_used_count", From::Computed(used)),
            Key("attention.sliding_window", From::Computed(window)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    defaults: &[],
    rules,
    computed: &[("rope_freqs.weight", rope::llama3_factors)],
    ignored: &[IGNORED],
    expert_layer: |params, _| has_experts(params),
};

fn has_experts(params: &Params) -> bool {
    params.maybe(Dim::Experts).ok().flatten().is_some_and(|count| count > 0)
}

fn used(params: &Params) -> Result<Pairs> {
    if !has_experts(params) {
        return Ok(vec![]);
    }
    Ok(vec![("expert_used_count", (params.dim(Dim::ExpertsUsed)? as u32).into())])
}

/// Mistral's first models look back so far only, in every layer. Stock llama.cpp does not read the key here and
/// looks back to the beginning.
fn window(params: &Params) -> Result<Pairs> {
    let window = params.uint(&["sliding_window"])?.unwrap_or(0);
    let narrows = window > 0 && window < params.dim(Dim::Context)?;
    Ok(if narrows { vec![("attention.sliding_window", (window as u32).into())] } else { vec![] })
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention_in_pairs());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(experts());
    rules
}

fn experts() -> impl Iterator<Item = Rule> {
    use Dim::*;
    let gate_up = "model.layers.{i}.mlp.experts.gate_up_proj";
    [
        rule(
            "blk.{i}.ffn_gate_inp.weight",
            "model.layers.{i}.block_sparse_moe.gate.weight",
            [Experts, Embedding],
        )
        .or("model.layers.{i}.mlp.gate.weight"),
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
    .into_iter()
    .map(Rule::in_expert_layers)
}
