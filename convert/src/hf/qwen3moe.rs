//! Qwen 3 MoE: GGUF `qwen3moe`. `expert_weights_norm` is always written; stock llama.cpp takes it for true.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key};
use super::params::Dim;
use super::rules::Rule;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3moe",
    gguf: "qwen3moe",
    classes: &["Qwen3MoeForCausalLM"],
    model_types: &["qwen3_moe"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_weights_norm", From::Flag(&["norm_topk_prob"])),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: common::sparse_step,
};

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention());
    rules.extend(common::head_norms());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules
}
