//! Granite MoE, also with a shared expert: GGUF `granitemoe`. Four multipliers; gate and up of all experts in one tensor.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};

/// On scores, the embedding, what layers add, and under the logits.
pub(super) const MULTIPLIERS: &[Key] = &[
    Key("attention.scale", From::Float(&["attention_multiplier"])),
    Key("embedding_scale", From::Float(&["embedding_multiplier"])),
    Key("residual_scale", From::Float(&["residual_multiplier"])),
    Key("logit_scale", From::Float(&["logits_scaling"])),
];

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "granitemoe",
    gguf: "granitemoe",
    classes: &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
    model_types: &["granitemoe", "granitemoeshared"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        MULTIPLIERS,
        &[
            Key("expert_shared_feed_forward_length", From::MaybeDim(Dim::SharedFf)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |_, _| true,
};

fn shared(params: &Params) -> bool {
    params.maybe(Dim::SharedFf).ok().flatten().is_some_and(|width| width > 0)
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let input = "model.layers.{i}.block_sparse_moe.input_linear.weight";
    let output = "model.layers.{i}.block_sparse_moe.output_linear.weight";
    let shared_input = "model.layers.{i}.shared_mlp.input_linear.weight";
    let shared_output = "model.layers.{i}.shared_mlp.output_linear.weight";
    let router = "model.layers.{i}.block_sparse_moe.router.layer.weight";
    let mut rules = common::ends();
    rules.extend(common::attention_in_pairs());
    rules.push(common::ffn_norm());
    rules.extend([
        rule("blk.{i}.ffn_gate_inp.weight", router, [Experts, Embedding]),
        rule("blk.{i}.ffn_gate_exps.weight", input, [Experts, Ff, Embedding]).op(Op::Part(0, 2)),
        rule("blk.{i}.ffn_up_exps.weight", input, [Experts, Ff, Embedding]).op(Op::Part(1, 2)),
        rule("blk.{i}.ffn_down_exps.weight", output, [Experts, Embedding, Ff]),
        rule("blk.{i}.ffn_gate_shexp.weight", shared_input, [SharedFf, Embedding])
            .op(Op::Part(0, 2))
            .when(shared),
        rule("blk.{i}.ffn_up_shexp.weight", shared_input, [SharedFf, Embedding])
            .op(Op::Part(1, 2))
            .when(shared),
        rule("blk.{i}.ffn_down_shexp.weight", shared_output, [Embedding, SharedFf]).when(shared),
    ]);
    rules
}
