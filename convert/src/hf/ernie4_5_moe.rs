//! ERNIE 4.5 with experts: GGUF `ernie4_5-moe`. Neighbouring pairs turn on both sides; experts are weighed by softmax, chosen
//! with a bias and always normalised. Blocks that predict further tokens are left out.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use moewe_engine::Result;
use moewe_engine::gguf::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "ernie4_5_moe",
    gguf: "ernie4_5-moe",
    classes: &["Ernie4_5_MoeForCausalLM"],
    model_types: &["ernie4_5_moe"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("", From::Computed(shared)),
            Key("leading_dense_block_count", From::MaybeUint(&["moe_layer_start_index"])),
            Key("interleave_moe_layer_step", From::MaybeUint(&["moe_layer_interval"])),
            Key("expert_gating_func", From::Uint(1)),
            Key("expert_weights_norm", From::Bool(true)),
            Key("", From::Computed(supported)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED, &["model.mtp_*", "mtp_*"]],
    expert_layer,
};

fn has_shared(params: &Params) -> bool {
    params.maybe(Dim::ExpertsShared).ok().flatten().is_some_and(|count| count > 0)
}

fn shared(params: &Params) -> Result<Pairs> {
    if !has_shared(params) {
        return Ok(vec![]);
    }
    Ok(vec![
        ("expert_shared_count", Value::from(params.dim(Dim::ExpertsShared)? as u32)),
        ("expert_shared_feed_forward_length", Value::from(params.dim(Dim::SharedFf)? as u32)),
    ])
}

fn supported(params: &Params) -> Result<Pairs> {
    params.refuse(params.flag(&["use_bias"], false)?, "use_bias")?;
    Ok(vec![])
}

/// Every so manieth layer from one to another; the last one's number may be -1.
fn expert_layer(params: &Params, layer: u64) -> bool {
    let number = |name: &str| params.uint(&[name]).ok().flatten();
    let every = number("moe_layer_interval").unwrap_or(1).max(1);
    let first = number("moe_layer_start_index").unwrap_or(0);
    let last = number("moe_layer_end_index").unwrap_or(u64::MAX);
    (layer + 1).is_multiple_of(every) && (first..=last).contains(&layer)
}

fn rules() -> Vec<Rule> {
    let mut rules = common::ends();
    rules.extend(common::attention());
    rules.push(common::ffn_norm());
    rules.extend(common::dense());
    rules.extend(common::experts());
    let bias = rule(
        "blk.{i}.exp_probs_b.bias",
        "model.layers.{i}.mlp.moe_statics.e_score_correction_bias",
        [Dim::Experts],
    );
    let bias = bias.op(Op::Squeeze).or("model.layers.{i}.mlp.gate.moe_statics.e_score_correction_bias");
    rules.push(bias.op(Op::Squeeze).in_expert_layers());
    rules.extend(common::shared_experts().map(|rule| rule.when(has_shared)));
    rules
}
