//! Qwen 2 and 2.5, dense: GGUF `qwen2`. Llama's layout with biases on q, k and v.

use super::architecture::Architecture;
use super::common::{self, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key};
use super::rules::Rule;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    classes: &["Qwen2ForCausalLM"],
    model_types: &["qwen2"],
    gguf: "qwen2",
    keys: &[SIZES, GROUPED, &[Key("", From::Computed(common::silu_only))]],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |_, _| false,
};

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules
}
