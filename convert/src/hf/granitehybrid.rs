//! Granite 4 H: GGUF `granitehybrid`. Mamba-2 or attention in each layer, Granite's multipliers, experts beside a shared
//! network; with no experts at all (Micro, 1B) that network is the dense one. Attention knows positions only where
//! `position_embedding_type` says "rope".

use super::architecture::Architecture;
use super::common::{self, IGNORED};
use super::granitemoe::MULTIPLIERS;
use super::keys::{From, Key, Pairs};
use super::kinds::{self, Kind, Words};
use super::mamba::{self, CONTEXT};
use super::params::{Dim, Params};
use super::rope;
use super::rules::{Op, Rule, rule};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "granitehybrid",
    gguf: "granitehybrid",
    classes: &["GraniteMoeHybridForCausalLM"],
    model_types: &["granitemoehybrid"],
    keys: &[
        &[
            Key("block_count", From::Dim(Dim::Layers)),
            Key("context_length", From::Computed(positions)),
            Key("embedding_length", From::Dim(Dim::Embedding)),
            Key("attention.head_count", From::Dim(Dim::Heads)),
            Key("attention.head_count_kv", From::Computed(heads)),
            Key("attention.layer_norm_rms_epsilon", From::Float(&["rms_norm_eps"])),
            Key("rope.*", From::Computed(rope::keys)),
            Key("vocab_size", From::Dim(Dim::Vocab)),
        ],
        MULTIPLIERS,
        &[
            Key("ssm.*", From::Computed(states)),
            Key("feed_forward_length", From::Computed(networks)),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: |params, _| has_experts(params),
};

const WORDS: Words = &[
    ("mamba", Kind::Recurrent),
    ("attention", Kind::Attention),
    ("linear_attention", Kind::Recurrent),
    ("full_attention", Kind::Attention),
];

fn kinds(params: &Params) -> Result<Vec<Kind>> {
    let layers = params.dim(Dim::Layers)?;
    let listed = kinds::listed(params, layers, "layer_types", WORDS)?;
    Ok(listed.unwrap_or_else(|| vec![Kind::Recurrent; layers as usize]))
}

fn recurs(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Recurrent)
}

fn attends(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Attention)
}

fn has_experts(params: &Params) -> bool {
    params.maybe(Dim::Experts).ok().flatten().unwrap_or(0) > 0
}

/// Whether attention turns its heads, and how long the context is.
fn positions(params: &Params) -> Result<Pairs> {
    let kind = params.text(&["position_embedding_type"])?.unwrap_or("nope");
    params.refuse(!matches!(kind, "rope" | "nope"), &format!("position_embedding_type {kind:?}"))?;
    let turns = kind == "rope";
    let context = if turns { params.dim(Dim::Context)? as u32 } else { CONTEXT };
    Ok(vec![("context_length", context.into()), ("rope.scaling.finetuned", turns.into())])
}

fn heads(params: &Params) -> Result<Pairs> {
    let of_keys = kinds::number_where(&kinds(params)?, Kind::Attention, params.dim(Dim::HeadsKv)?);
    Ok(vec![("attention.head_count_kv", of_keys)])
}

/// Models of this class may attend in every layer (Micro, 350M): then nothing has a state.
fn states(params: &Params) -> Result<Pairs> {
    if !kinds(params)?.contains(&Kind::Recurrent) {
        return Ok(vec![]);
    }
    mamba::supported(params)?;
    let (width, inner) = (params.dim(Dim::Embedding)?, params.dim(Dim::Inner)?);
    let expand = params.uint(&["mamba_expand"])?.unwrap_or(2);
    if expand.checked_mul(width) != Some(inner) {
        let expected = format!("heads of states as wide as {expand} times {width}");
        return Err(Error::malformed("config, mamba_n_heads and mamba_d_head", expected, inner));
    }
    mamba::states(params)
}

fn networks(params: &Params) -> Result<Pairs> {
    let length = |dim| params.dim(dim).map(|length| Value::from(length as u32));
    if !has_experts(params) {
        return Ok(vec![("feed_forward_length", length(Dim::SharedFf)?)]);
    }
    Ok(vec![
        ("feed_forward_length", length(Dim::Ff)?),
        ("expert_count", length(Dim::Experts)?),
        ("expert_used_count", length(Dim::ExpertsUsed)?),
        ("expert_shared_feed_forward_length", length(Dim::SharedFf)?),
    ])
}

fn supported(params: &Params) -> Result<Pairs> {
    common::silu_only(params)?;
    params.refuse(params.flag(&["attention_bias"], false)?, "attention_bias")?;
    let (width, heads, head) = (params.dim(Dim::Embedding)?, params.dim(Dim::Heads)?, params.dim(Dim::Head)?);
    params.refuse(heads * head != width, &format!("head_dim {head} with {heads} heads in {width}"))?;
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mixer = mamba::mixer([
        "model.layers.{i}.mamba.in_proj.weight",
        "model.layers.{i}.mamba.conv1d.weight",
        "model.layers.{i}.mamba.conv1d.bias",
        "model.layers.{i}.mamba.dt_bias",
        "model.layers.{i}.mamba.A_log",
        "model.layers.{i}.mamba.D",
        "model.layers.{i}.mamba.norm.weight",
        "model.layers.{i}.mamba.out_proj.weight",
    ]);
    let attention = common::attention_in_pairs().into_iter().filter(|rule| !rule.to.ends_with(".bias"));
    let in_attention = |rule: Rule| match rule.to {
        "blk.{i}.attn_norm.weight" => rule,
        _ => rule.in_layers(attends),
    };
    let shared_input = "model.layers.{i}.shared_mlp.input_linear.weight";
    let shared_output = "model.layers.{i}.shared_mlp.output_linear.weight";
    let shared = |to, part| rule(to, shared_input, [SharedFf, Embedding]).op(Op::Part(part, 2));
    let mut rules = common::ends();
    rules.extend(attention.map(in_attention));
    rules.extend(mixer.map(|rule| rule.in_layers(recurs)));
    rules.push(common::ffn_norm());
    rules.extend(experts());
    rules.extend([
        shared("blk.{i}.ffn_gate_shexp.weight", 0).in_expert_layers(),
        shared("blk.{i}.ffn_up_shexp.weight", 1).in_expert_layers(),
        rule("blk.{i}.ffn_down_shexp.weight", shared_output, [Embedding, SharedFf]).in_expert_layers(),
        shared("blk.{i}.ffn_gate.weight", 0).in_dense_layers(),
        shared("blk.{i}.ffn_up.weight", 1).in_dense_layers(),
        rule("blk.{i}.ffn_down.weight", shared_output, [Embedding, SharedFf]).in_dense_layers(),
    ]);
    rules
}

/// In the names of the files, and those of transformers 5.
fn experts() -> impl Iterator<Item = Rule> {
    use Dim::*;
    let [input, output, router] = [
        "model.layers.{i}.block_sparse_moe.input_linear.weight",
        "model.layers.{i}.block_sparse_moe.output_linear.weight",
        "model.layers.{i}.block_sparse_moe.router.layer.weight",
    ];
    let gate_up = "model.layers.{i}.block_sparse_moe.experts.gate_up_proj";
    let half = |to, part| {
        let rule = rule(to, input, [Experts, Ff, Embedding]).op(Op::Part(part, 2));
        rule.or(gate_up).op(Op::Part(part, 2))
    };
    [
        rule("blk.{i}.ffn_gate_inp.weight", router, [Experts, Embedding])
            .or("model.layers.{i}.block_sparse_moe.router.weight"),
        half("blk.{i}.ffn_gate_exps.weight", 0),
        half("blk.{i}.ffn_up_exps.weight", 1),
        rule("blk.{i}.ffn_down_exps.weight", output, [Experts, Embedding, Ff])
            .or("model.layers.{i}.block_sparse_moe.experts.down_proj"),
    ]
    .into_iter()
    .map(Rule::in_expert_layers)
}
