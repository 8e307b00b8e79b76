//! Qwen3.5 and 3.6 with experts: GGUF `qwen35moe`. The layers of Qwen3-Next, value heads in llama.cpp's order; the text
//! model stands beside one for images, which is left out, as are layers that predict further tokens.

use super::architecture::Architecture;
use super::common::{self, BODY, EXPERTS, GROUPED, IGNORED};
use super::delta::{self, OTHERS, STATES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::qwen2moe;
use super::rules::Rule;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "qwen35moe",
    gguf: "qwen35moe",
    classes: &["Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"],
    model_types: &["qwen3_5_moe_text", "qwen3_5_moe"],
    keys: &[
        BODY,
        GROUPED,
        EXPERTS,
        STATES,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_feed_forward_length", From::Dim(Dim::SharedFf)),
            Key("rope.dimension_sections", From::Computed(sections)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED, OTHERS],
    expert_layer: |_, _| true,
};

/// Pairs of a head that turn with time, height and width of images; in text all three are the position. llama.cpp wants
/// them, so a configuration without gets the class's.
pub(super) fn sections(params: &Params) -> Result<Pairs> {
    let Some((_, listed)) = params.get(&["rope_parameters.mrope_section", "rope_scaling.mrope_section"])
    else {
        return Ok(vec![("rope.dimension_sections", vec![11i32, 11, 10, 0].into())]);
    };
    let wrong = || {
        let place = "config, mrope_section of the rotation";
        Error::malformed(place, "a list of at most four numbers of pairs", listed)
    };
    let pairs = |pair: &serde_json::Value| pair.as_u64().filter(|&pairs| pairs < 1 << 16).map(|n| n as i32);
    let listed = listed.as_array().filter(|listed| listed.len() <= 4).ok_or_else(wrong)?;
    let mut sections = listed.iter().map(pairs).collect::<Option<Vec<i32>>>().ok_or_else(wrong)?;
    sections.resize(4, 0);
    Ok(vec![("rope.dimension_sections", sections.into())])
}

fn rules() -> Vec<Rule> {
    let mut rules = delta::ends();
    rules.extend(delta::attention());
    rules.extend(delta::tiled());
    rules.extend(common::experts());
    rules.extend(qwen2moe::shared_with_row());
    rules
}
