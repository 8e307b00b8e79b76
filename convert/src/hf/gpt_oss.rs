//! gpt-oss: GGUF `gpt-oss`. Biases on attention, router and experts, attention sinks, every other layer sliding.
//! Experts come as bfloat16 in (in, out) order with gate and up rows alternating, or as MXFP4 blocks in (out, in) order,
//! which keep their bits.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use moewe_engine::Result;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gpt_oss",
    gguf: "gpt-oss",
    classes: &["GptOssForCausalLM"],
    model_types: &["gpt_oss"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::Ff)),
            Key("attention.sliding_window", From::MaybeUint(&["sliding_window"])),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |_, _| true,
};

fn supported(params: &Params) -> Result<Pairs> {
    let layers = params.dim(Dim::Layers)? as usize;
    let types =
        params.get(&["layer_types"]).map(|(_, types)| types.as_array().map_or(&[][..], Vec::as_slice));
    let alternate = |(i, kind): (usize, &serde_json::Value)| {
        kind == if i % 2 == 0 { "sliding_attention" } else { "full_attention" }
    };
    let regular = types.is_none_or(|types| types.len() == layers && types.iter().enumerate().all(alternate));
    params.refuse(!regular, "layer_types other than sliding and full in turns, one per layer")?;
    params.refuse(params.uint(&["sliding_window"])?.unwrap_or(0) == 0, "sliding layers without a window")?;
    for (name, known) in [("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)] {
        let found = params.float(&[name])?.unwrap_or(known);
        params.refuse(found != known, &format!("{name} {found} (only {known} is known)"))?;
    }
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mut rules = common::ends_with_head();
    rules.extend(common::attention());
    rules.extend([
        rule("blk.{i}.attn_sinks.weight", "model.layers.{i}.self_attn.sinks", [Heads]),
        rule(
            "blk.{i}.post_attention_norm.weight",
            "model.layers.{i}.post_attention_layernorm.weight",
            [Embedding],
        ),
        rule("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.mlp.router.weight", [Experts, Embedding]),
        rule("blk.{i}.ffn_gate_inp.bias", "model.layers.{i}.mlp.router.bias", [Experts]),
    ]);
    rules.extend(experts());
    rules
}

fn experts() -> Vec<Rule> {
    use Dim::*;
    let gate_up = "model.layers.{i}.mlp.experts.gate_up_proj";
    let gate_up_blocks = "model.layers.{i}.mlp.experts.gate_up_proj_blocks";
    let gate_up_bias = "model.layers.{i}.mlp.experts.gate_up_proj_bias";
    let half = |to, which| {
        rule(to, gate_up, [Experts, Ff, Embedding])
            .op(Op::Transpose)
            .op(Op::Every(which, 2))
            .or(gate_up_blocks)
            .op(Op::Every(which, 2))
    };
    vec![
        half("blk.{i}.ffn_gate_exps.weight", 0),
        half("blk.{i}.ffn_up_exps.weight", 1),
        rule(
            "blk.{i}.ffn_down_exps.weight",
            "model.layers.{i}.mlp.experts.down_proj",
            [Experts, Embedding, Ff],
        )
        .op(Op::Transpose)
        .or("model.layers.{i}.mlp.experts.down_proj_blocks"),
        rule("blk.{i}.ffn_gate_exps.bias", gate_up_bias, [Experts, Ff]).op(Op::EveryLast(0, 2)),
        rule("blk.{i}.ffn_up_exps.bias", gate_up_bias, [Experts, Ff]).op(Op::EveryLast(1, 2)),
        rule(
            "blk.{i}.ffn_down_exps.bias",
            "model.layers.{i}.mlp.experts.down_proj_bias",
            [Experts, Embedding],
        ),
    ]
}
