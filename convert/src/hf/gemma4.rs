//! Gemma 4, the text model: GGUF `gemma4`. Layers with a window beside those that see everything and have heads of their
//! own, whose keys may be their values; experts, if any, beside a dense network, both with norms of their own. Layers
//! that share keys and embeddings per layer (E2B, E4B) are not computed.

use super::architecture::Architecture;
use super::common::{self, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::kinds::{self, Kind};
use super::params::{Dim, Params};
use super::rules::{Rule, rule};
use super::{rope, wide};
use moewe_engine::Result;
use moewe_engine::gguf::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma4",
    gguf: "gemma4",
    classes: &["Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"],
    model_types: &["gemma4_text", "gemma4"],
    keys: &[
        SIZES,
        &[
            Key("attention.head_count_kv", From::Computed(heads)),
            Key("attention.key_length", From::Dim(Dim::WideHead)),
            Key("attention.value_length", From::Dim(Dim::WideHead)),
            Key("attention.key_length_swa", From::Dim(Dim::Head)),
            Key("attention.value_length_swa", From::Dim(Dim::Head)),
            Key("attention.layer_norm_rms_epsilon", From::Float(&["rms_norm_eps"])),
            Key("attention.sliding_window", From::Computed(window)),
            Key("attention.shared_kv_layers", From::Uint(0)),
            Key("embedding_length_per_layer_input", From::Uint(0)),
            Key("final_logit_softcapping", From::Computed(cap)),
            Key("rope.*", From::Computed(rope::proportional_keys)),
            Key("expert_*", From::Computed(experts)),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[("rope_freqs.weight", rope::proportional_factors)],
    ignored: &[IGNORED, TOWERS],
    expert_layer: |params, _| has_experts(params),
};

const TOWERS: &[&str] = &[
    "vision_tower.*",
    "model.vision_tower.*",
    "embed_vision.*",
    "model.embed_vision.*",
    "audio_tower.*",
    "model.audio_tower.*",
    "embed_audio.*",
    "model.embed_audio.*",
];

fn has_experts(params: &Params) -> bool {
    params.flag(&["enable_moe_block"], false).unwrap_or(false)
}

fn kinds_of(params: &Params) -> Result<Vec<Kind>> {
    wide::kinds(params, params.dim(Dim::Layers)?)
}

fn sees_everything(params: &Params, layer: u64) -> bool {
    kinds::is(kinds_of(params), layer, Kind::Attention)
}

fn has_window(params: &Params, layer: u64) -> bool {
    kinds::is(kinds_of(params), layer, Kind::Window)
}

/// Layers that see everything take their keys for values.
fn has_values(params: &Params) -> bool {
    !params.flag(&["attention_k_eq_v"], false).unwrap_or(false)
}

fn heads(params: &Params) -> Result<Pairs> {
    let (usual, wide) = (params.dim(Dim::HeadsKv)?, params.dim(Dim::WideHeadsKv)?);
    let count = |kind: Kind| if kind == Kind::Window { usual as i32 } else { wide as i32 };
    let heads: Value = match usual == wide {
        true => (usual as u32).into(),
        false => kinds_of(params)?.into_iter().map(count).collect::<Vec<i32>>().into(),
    };
    params.refuse(
        params.dim(Dim::Heads)? % wide != 0,
        &format!("{wide} key heads in layers that see everything"),
    )?;
    Ok(vec![("attention.head_count_kv", heads)])
}

fn window(params: &Params) -> Result<Pairs> {
    let window = params.uint(&["sliding_window"])?.unwrap_or(0);
    params.refuse(!(1..1 << 30).contains(&window), &format!("sliding_window {window}"))?;
    let windows: Vec<bool> = kinds_of(params)?.into_iter().map(|kind| kind == Kind::Window).collect();
    Ok(vec![
        ("attention.sliding_window", (window as u32).into()),
        ("attention.sliding_window_pattern", windows.into()),
    ])
}

fn cap(params: &Params) -> Result<Pairs> {
    let cap = params.float(&["final_logit_softcapping"])?;
    Ok(cap.map(|cap| ("final_logit_softcapping", cap.into())).into_iter().collect())
}

fn experts(params: &Params) -> Result<Pairs> {
    if !has_experts(params) {
        return Ok(vec![]);
    }
    let length = |dim| params.dim(dim).map(|length| Value::from(length as u32));
    Ok(vec![
        ("expert_count", length(Dim::Experts)?),
        ("expert_used_count", length(Dim::ExpertsUsed)?),
        ("expert_feed_forward_length", length(Dim::ExpertFf)?),
    ])
}

fn supported(params: &Params) -> Result<Pairs> {
    for (name, is_for) in [
        ("num_kv_shared_layers", "layers that share keys"),
        ("hidden_size_per_layer_input", "embeddings per layer"),
    ] {
        let number = params.uint(&[name])?.unwrap_or(0);
        params.refuse(number > 0, &format!("{name} {number}: {is_for}, as in E2B and E4B"))?;
    }
    for name in ["use_double_wide_mlp", "attention_bias"] {
        params.refuse(params.flag(&[name], false)?, name)?;
    }
    // Among "vision" tokens alone it changes nothing about text.
    let both_ways = params.text(&["use_bidirectional_attention"])?.unwrap_or("vision");
    params.refuse(both_ways != "vision", &format!("use_bidirectional_attention {both_ways:?}"))?;
    let activation = params.text(&["hidden_activation"])?.unwrap_or("gelu_pytorch_tanh");
    params.refuse(activation != "gelu_pytorch_tanh", &format!("the activation {activation:?}"))?;
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mut rules = common::ends();
    rules.extend(attention(has_window, [Q, Kv, Head]));
    rules.extend(attention(sees_everything, [WideQ, WideKv, WideHead]));
    let value =
        |shape: [Dim; 2]| rule("blk.{i}.attn_v.weight", "model.layers.{i}.self_attn.v_proj.weight", shape);
    rules.extend([
        value([Kv, Embedding]).in_layers(has_window),
        value([WideKv, Embedding]).in_layers(sees_everything).when(has_values),
        rule("blk.{i}.layer_output_scale.weight", "model.layers.{i}.layer_scalar", [One]),
    ]);
    for (to, from) in [
        ("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight"),
        ("blk.{i}.post_attention_norm.weight", "model.layers.{i}.post_attention_layernorm.weight"),
        ("blk.{i}.ffn_norm.weight", "model.layers.{i}.pre_feedforward_layernorm.weight"),
        ("blk.{i}.post_ffw_norm.weight", "model.layers.{i}.post_feedforward_layernorm.weight"),
    ] {
        rules.push(rule(to, from, [Embedding]));
    }
    for (to, from) in [
        ("blk.{i}.post_ffw_norm_1.weight", "model.layers.{i}.post_feedforward_layernorm_1.weight"),
        ("blk.{i}.post_ffw_norm_2.weight", "model.layers.{i}.post_feedforward_layernorm_2.weight"),
        ("blk.{i}.pre_ffw_norm_2.weight", "model.layers.{i}.pre_feedforward_layernorm_2.weight"),
        ("blk.{i}.ffn_gate_inp.scale", "model.layers.{i}.router.scale"),
    ] {
        rules.push(rule(to, from, [Embedding]).in_expert_layers());
    }
    // The dense network stands beside experts, too.
    rules.extend(
        common::dense().into_iter().filter(|rule| !rule.to.ends_with(".bias")).map(Rule::in_all_layers),
    );
    rules.extend([
        rule("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.router.proj.weight", [Experts, Embedding])
            .in_expert_layers(),
        rule("blk.{i}.ffn_down_exps.scale", "model.layers.{i}.router.per_expert_scale", [Experts])
            .in_expert_layers(),
        rule(
            "blk.{i}.ffn_gate_up_exps.weight",
            "model.layers.{i}.experts.gate_up_proj",
            [Experts, ExpertGateUp, Embedding],
        )
        .in_expert_layers(),
        rule(
            "blk.{i}.ffn_down_exps.weight",
            "model.layers.{i}.experts.down_proj",
            [Experts, Embedding, ExpertFf],
        )
        .in_expert_layers(),
    ]);
    rules
}

/// Attention of one kind of layers, `sizes` being those of all queries, all keys and one head.
fn attention(kind: fn(&Params, u64) -> bool, sizes: [Dim; 3]) -> impl Iterator<Item = Rule> {
    use Dim::Embedding;
    let [q, kv, head] = sizes;
    [
        rule("blk.{i}.attn_q.weight", "model.layers.{i}.self_attn.q_proj.weight", [q, Embedding]),
        rule("blk.{i}.attn_k.weight", "model.layers.{i}.self_attn.k_proj.weight", [kv, Embedding]),
        rule("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.o_proj.weight", [Embedding, q]),
        rule("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight", [head]),
        rule("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight", [head]),
    ]
    .into_iter()
    .map(move |rule| rule.in_layers(kind))
}
