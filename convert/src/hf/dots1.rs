//! dots.llm1: GGUF `dots1`. Attention of Qwen 3, router and shared experts of DeepSeek V3 behind some dense layers.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::router;
use super::rules::Rule;
use moewe_engine::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "dots1",
    gguf: "dots1",
    classes: &["Dots1ForCausalLM"],
    model_types: &["dots1"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        router::WEIGHTS,
        &[
            Key("leading_dense_block_count", From::MaybeUint(&["first_k_dense_replace"])),
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_count", From::Dim(Dim::ExpertsShared)),
            Key("", From::Computed(router::sigmoid)),
            Key("", From::Computed(no_window)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: router::after_dense,
};

/// Refuses layers that look back a window only; published models have none.
fn no_window(params: &Params) -> Result<Pairs> {
    let slides = match params.get(&["layer_types"]) {
        Some((_, kinds)) => {
            kinds.as_array().is_none_or(|kinds| kinds.iter().any(|kind| kind != "full_attention"))
        }
        None => {
            let first = params.uint(&["max_window_layers"])?.unwrap_or(u64::MAX);
            params.get(&["sliding_window"]).is_some() && first < params.dim(Dim::Layers)?
        }
    };
    params.refuse(slides, "a sliding window (layer_types, max_window_layers)")?;
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention());
    rules.extend(common::head_norms());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules.push(router::choice_bias("model.layers.{i}.mlp.gate.e_score_correction_bias"));
    rules.extend(common::shared_experts());
    rules
}
