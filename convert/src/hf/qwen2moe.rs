//! Qwen 1.5 and 2 MoE: GGUF `qwen2moe`. One shared expert behind a sigmoid gate. Where the weights of the chosen are
//! normalised (merges do that), `expert_weights_norm` says so; stock llama.cpp does not read it and computes without.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use moewe_engine::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen2moe",
    gguf: "qwen2moe",
    classes: &["Qwen2MoeForCausalLM"],
    model_types: &["qwen2_moe"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_feed_forward_length", From::Dim(Dim::SharedFf)),
            Key("expert_weights_norm", From::Computed(normalised)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: common::sparse_step,
};

/// `expert_weights_norm`, only where true: absent means false in this architecture.
pub(super) fn normalised(params: &Params) -> Result<Pairs> {
    let normalised = params.flag(&["norm_topk_prob"], false)?;
    Ok(if normalised { vec![("expert_weights_norm", true.into())] } else { vec![] })
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends_with_head();
    rules.extend(common::attention());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules.extend(shared());
    rules
}

/// The same where the gate of the shared expert stays a matrix of one row, as in Qwen's later files.
pub(super) fn shared_with_row() -> impl Iterator<Item = Rule> {
    let row = |rule: Rule| match rule.to {
        "blk.{i}.ffn_gate_inp_shexp.weight" => {
            let gate = "model.layers.{i}.mlp.shared_expert_gate.weight";
            super::rules::rule(rule.to, gate, [Dim::One, Dim::Embedding]).in_expert_layers()
        }
        _ => rule,
    };
    shared().map(row)
}

fn shared() -> impl Iterator<Item = Rule> {
    use Dim::*;
    [
        rule(
            "blk.{i}.ffn_gate_inp_shexp.weight",
            "model.layers.{i}.mlp.shared_expert_gate.weight",
            [Embedding],
        )
        .op(Op::Squeeze),
        rule(
            "blk.{i}.ffn_gate_shexp.weight",
            "model.layers.{i}.mlp.shared_expert.gate_proj.weight",
            [SharedFf, Embedding],
        ),
        rule(
            "blk.{i}.ffn_up_shexp.weight",
            "model.layers.{i}.mlp.shared_expert.up_proj.weight",
            [SharedFf, Embedding],
        ),
        rule(
            "blk.{i}.ffn_down_shexp.weight",
            "model.layers.{i}.mlp.shared_expert.down_proj.weight",
            [Embedding, SharedFf],
        ),
    ]
    .into_iter()
    .map(Rule::in_expert_layers)
}
