//! GLM-4.5, 4.6, 4.7 and those built on them: GGUF `glm4moe`. Biased queries, keys and values, half of each head turned,
//! a norm per head where the configuration wants one, the router of DeepSeek V3.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key};
use super::params::{Dim, Params};
use super::router;
use super::rules::{Rule, rule};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "glm4moe",
    gguf: "glm4moe",
    classes: &["Glm4MoeForCausalLM"],
    model_types: &["glm4_moe"],
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
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: router::after_dense,
};

fn norms_heads(params: &Params) -> bool {
    params.flag(&["use_qk_norm"], false).unwrap_or(false)
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    // `attention_bias` is about the three inputs only.
    rules.extend(common::attention().into_iter().filter(|rule| rule.to != "blk.{i}.attn_output.bias"));
    rules.extend(common::head_norms().into_iter().map(|rule| rule.when(norms_heads)));
    rules.push(rule(
        "blk.{i}.post_attention_norm.weight",
        "model.layers.{i}.post_attention_layernorm.weight",
        [Dim::Embedding],
    ));
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules.push(router::choice_bias("model.layers.{i}.mlp.gate.e_score_correction_bias"));
    rules.extend(common::shared_experts());
    rules
}
