//! Llama, Mistral and Mixtral: GGUF `llama`. Experts in the layout of 2023 (`block_sparse_moe`) and in the fused one
//! that transformers 5 writes. q and k rows are permuted, because llama.cpp turns neighbouring pairs here.

use super::architecture::Architecture;
use super::common::{self, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rope;
use super::rules::{Op, Rule, rule};
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
            Key("", From::Computed(experts_of)),
            Key("attention.sliding_window", From::Computed(window)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[("rope_freqs.weight", rope::factors)],
    ignored: &[IGNORED],
    expert_layer: |params, _| has_experts(params),
};

fn has_experts(params: &Params) -> bool {
    params.is("mixtral")
}

fn experts_of(params: &Params) -> Result<Pairs> {
    if !has_experts(params) {
        return Ok(vec![]);
    }
    let counts = [("expert_count", Dim::Experts), ("expert_used_count", Dim::ExpertsUsed)];
    counts.into_iter().map(|(name, dim)| Ok((name, (params.dim(dim)? as u32).into()))).collect()
}

/// Mistral's first models look back so far only, in every layer. Stock llama.cpp does not read the key here and
/// looks back to the beginning.
fn window(params: &Params) -> Result<Pairs> {
    let Some(window) = params.uint(&["sliding_window"])? else { return Ok(vec![]) };
    params.refuse(window == 0, "sliding_window 0, with which nothing would be seen")?;
    let narrows = window < params.dim(Dim::Context)?;
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
