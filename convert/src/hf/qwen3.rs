//! Qwen 3, dense: GGUF `qwen3`. A norm over each head of queries and keys.

use super::architecture::Architecture;
use super::common::{self, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key};
use super::rules::Rule;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    classes: &["Qwen3ForCausalLM"],
    model_types: &["qwen3"],
    gguf: "qwen3",
    keys: &[SIZES, GROUPED, &[Key("", From::Computed(common::silu_only))]],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |_, _| false,
};

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention());
    rules.extend(common::head_norms());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules
}
