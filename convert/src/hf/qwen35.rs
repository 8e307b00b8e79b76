//! Qwen3.5 and later without experts: GGUF `qwen35`. As `qwen35moe`, with a dense network in each layer.

use super::architecture::Architecture;
use super::common::{self, GROUPED, IGNORED, SIZES};
use super::delta::{self, OTHERS, STATES};
use super::keys::{From, Key};
use super::qwen35moe;
use super::rules::Rule;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen35",
    gguf: "qwen35",
    classes: &["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
    model_types: &["qwen3_5_text", "qwen3_5"],
    keys: &[SIZES, GROUPED, STATES, &[Key("rope.dimension_sections", From::Computed(qwen35moe::sections))]],
    rules,
    computed: &[],
    ignored: &[IGNORED, OTHERS],
    expert_layer: |_, _| false,
};

fn rules() -> Vec<Rule> {
    let mut rules = delta::ends();
    rules.extend(delta::attention());
    rules.extend(delta::tiled());
    rules.extend(common::dense());
    rules
}
