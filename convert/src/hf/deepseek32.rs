//! DeepSeek V3.2: GGUF `deepseek32`. V3 whose layers look at positions that an indexer chooses. What chooses turns half
//! against half, attention in neighbouring pairs.

use super::architecture::Architecture;
use super::common::{EXPERTS, IGNORED, SIZES};
use super::deepseek2::{self, LATENT};
use super::glm_dsa::{INDEXER, indexer};
use super::keys::{From, Key};
use super::router;
use super::rules::Rule;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek32",
    gguf: "deepseek32",
    classes: &["DeepseekV32ForCausalLM"],
    model_types: &["deepseek_v32"],
    keys: &[SIZES, EXPERTS, router::WEIGHTS, LATENT, INDEXER, &[Key("", From::Computed(router::sigmoid))]],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: deepseek2::expert_layer,
};

fn rules() -> Vec<Rule> {
    let mut rules = deepseek2::rules();
    rules.extend(indexer());
    rules
}
