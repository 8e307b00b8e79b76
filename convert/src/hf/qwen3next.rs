//! Qwen3-Next and Qwen3-Coder-Next: GGUF `qwen3next`. Three layers of the gated delta rule to one of gated attention,
//! many experts and a gated shared one. `in_proj_qkvz` is grouped by key heads and is taken apart, `in_proj_ba` stays.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::delta::{self, OTHERS, STATES};
use super::keys::{From, Key};
use super::params::Dim;
use super::qwen2moe;
use super::rules::Rule;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3next",
    gguf: "qwen3next",
    classes: &["Qwen3NextForCausalLM"],
    model_types: &["qwen3_next"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        STATES,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_feed_forward_length", From::Dim(Dim::SharedFf)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED, OTHERS],
    expert_layer: common::sparse_step,
};

fn rules() -> Vec<Rule> {
    let mut rules = delta::ends();
    rules.extend(delta::attention());
    rules.extend(delta::grouped());
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules.extend(qwen2moe::shared_with_row());
    rules
}
