//! Nemotron 3 with experts: GGUF `nemotron_h_moe`. Each layer is one half only: Mamba-2, attention without positions, a
//! network of experts without gates, or a dense one. With `moe_latent_size` (Super) routed experts see a shorter vector.

use super::architecture::Architecture;
use super::common::{EXPERTS, IGNORED};
use super::keys::{From, Key, Pairs};
use super::kinds::{self, Kind, Words};
use super::mamba::{self, CONTEXT};
use super::params::{Dim, Params};
use super::rules::{Op, Rule, rule};
use super::{common, router};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "nemotron_h",
    gguf: "nemotron_h_moe",
    classes: &["NemotronHForCausalLM"],
    model_types: &["nemotron_h"],
    keys: &[
        &[
            Key("block_count", From::Dim(Dim::Layers)),
            Key("context_length", From::Uint(CONTEXT)),
            Key("embedding_length", From::Dim(Dim::Embedding)),
            Key("attention.head_count", From::Dim(Dim::Heads)),
            Key("attention.key_length", From::Dim(Dim::Head)),
            Key("attention.value_length", From::Dim(Dim::Head)),
            Key("attention.layer_norm_epsilon", From::Float(&["layer_norm_epsilon"])),
            Key("rope.dimension_count", From::Dim(Dim::Head)),
            Key("rope.scaling.finetuned", From::Bool(false)),
            Key("vocab_size", From::Dim(Dim::Vocab)),
            Key("feed_forward_length", From::Computed(by_layer)),
            Key("ssm.*", From::Computed(mamba::states)),
        ],
        EXPERTS,
        router::WEIGHTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_feed_forward_length", From::Dim(Dim::SharedFf)),
            Key("expert_shared_count", From::Dim(Dim::ExpertsShared)),
            Key("expert_group_count", From::Computed(router::groups)),
            Key("moe_latent_size", From::MaybeDim(Dim::Latent)),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED, &["mtp.*", "model.mtp.*"]],
    expert_layer: |params, layer| kinds::is(kinds(params), layer, Kind::Experts),
};

const WORDS: Words = &[
    ("linear_attention", Kind::Recurrent),
    ("full_attention", Kind::Attention),
    ("moe", Kind::Experts),
    ("mlp", Kind::Dense),
    ("mamba", Kind::Recurrent),
    ("attention", Kind::Attention),
];
const LETTERS: &[(char, Kind)] =
    &[('M', Kind::Recurrent), ('*', Kind::Attention), ('E', Kind::Experts), ('-', Kind::Dense)];

/// What layers are, by the list of transformers 5 or the letters of the files; where both stand they must agree.
fn kinds(params: &Params) -> Result<Vec<Kind>> {
    let layers = params.dim(Dim::Layers)?;
    let listed = kinds::listed(params, layers, "layers_block_type", WORDS)?;
    let Some(pattern) = params.text(&["hybrid_override_pattern"])? else {
        return listed.ok_or_else(|| {
            let place = "config, hybrid_override_pattern or layers_block_type";
            Error::malformed(place, "a word or letter for each layer", "none")
        });
    };
    let broken = |expected: String, found: String| {
        Error::malformed("config, hybrid_override_pattern", expected, found)
    };
    let kind = |letter: char| {
        let known = LETTERS.iter().find(|known| known.0 == letter).map(|known| known.1);
        known.ok_or_else(|| broken("letters of M, *, E and -".into(), format!("{letter:?}")))
    };
    let kinds = pattern.chars().map(kind).collect::<Result<Vec<_>>>()?;
    if kinds.len() as u64 != layers {
        return Err(broken(format!("a letter for each of {layers} layers"), kinds.len().to_string()));
    }
    if listed.is_some_and(|listed| listed != kinds) {
        return Err(broken("what layers_block_type says".into(), "another order".into()));
    }
    Ok(kinds)
}

/// Layers that have no key heads and no hidden width have a state.
fn by_layer(params: &Params) -> Result<Pairs> {
    let kinds = kinds(params)?;
    let widths = kinds.iter().map(|kind| {
        let width = match kind {
            Kind::Experts => params.dim(Dim::ExpertFf)?,
            Kind::Dense => params.dim(Dim::Ff)?,
            Kind::Recurrent | Kind::Attention | Kind::Window => 0,
        };
        Ok(width as i32)
    });
    Ok(vec![
        ("feed_forward_length", Value::from(widths.collect::<Result<Vec<i32>>>()?)),
        ("attention.head_count_kv", kinds::number_where(&kinds, Kind::Attention, params.dim(Dim::HeadsKv)?)),
    ])
}

fn supported(params: &Params) -> Result<Pairs> {
    let kinds = kinds(params)?;
    if !kinds.contains(&Kind::Experts) {
        let hint = "Nemotron-H without experts is an architecture of its own, which is not known here";
        return Err(Error::unsupported("config: no layer with experts", hint));
    }
    mamba::supported(params)?;
    for name in ["attention_bias", "mlp_bias"] {
        params.refuse(params.flag(&[name], false)?, name)?;
    }
    for (name, known) in [("mlp_hidden_act", "relu2"), ("mamba_hidden_act", "silu")] {
        let activation = params.text(&[name])?.unwrap_or(known);
        params.refuse(activation != known, &format!("{name} {activation:?} (only {known} is known)"))?;
    }
    params.refuse(params.get(&["sliding_window"]).is_some(), "sliding_window")?;
    params.refuse(params.dim(Dim::ExpertsShared)? != 1, "n_shared_experts other than 1")?;
    Ok(vec![])
}

fn recurs(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Recurrent)
}

fn attends(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Attention)
}

fn is_dense(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Dense)
}

fn has_latent(params: &Params) -> bool {
    params.maybe(Dim::Latent).is_ok_and(|latent| latent.is_some())
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mixer = mamba::mixer([
        "model.layers.{i}.mixer.in_proj.weight",
        "model.layers.{i}.mixer.conv1d.weight",
        "model.layers.{i}.mixer.conv1d.bias",
        "model.layers.{i}.mixer.dt_bias",
        "model.layers.{i}.mixer.A_log",
        "model.layers.{i}.mixer.D",
        "model.layers.{i}.mixer.norm.weight",
        "model.layers.{i}.mixer.out_proj.weight",
    ]);
    // Nothing turns, so the order within heads is free; it is the one of llama.cpp's converter.
    let attention = [
        rule("blk.{i}.attn_q.weight", "model.layers.{i}.mixer.q_proj.weight", [Q, Embedding])
            .op(Op::PairHalves(Heads)),
        rule("blk.{i}.attn_k.weight", "model.layers.{i}.mixer.k_proj.weight", [Kv, Embedding])
            .op(Op::PairHalves(HeadsKv)),
        rule("blk.{i}.attn_v.weight", "model.layers.{i}.mixer.v_proj.weight", [Kv, Embedding]),
        rule("blk.{i}.attn_output.weight", "model.layers.{i}.mixer.o_proj.weight", [Embedding, Q]),
    ];
    let dense = [
        rule("blk.{i}.ffn_up.weight", "model.layers.{i}.mixer.up_proj.weight", [Ff, Embedding]),
        rule("blk.{i}.ffn_down.weight", "model.layers.{i}.mixer.down_proj.weight", [Embedding, Ff]),
    ];
    let mut rules = vec![
        rule("token_embd.weight", "model.embeddings.weight", [Vocab, Embedding]),
        rule("output_norm.weight", "model.norm_f.weight", [Embedding]),
        rule("output.weight", "lm_head.weight", [Vocab, Embedding]).when(common::untied),
        rule("blk.{i}.attn_norm.weight", "model.layers.{i}.norm.weight", [Embedding]),
    ];
    rules.extend(mixer.map(|rule| rule.in_layers(recurs)));
    rules.extend(attention.map(|rule| rule.in_layers(attends)));
    rules.extend(dense.map(|rule| rule.in_layers(is_dense)));
    rules.extend(experts());
    rules
}

fn experts() -> Vec<Rule> {
    use Dim::*;
    let [latent_down, latent_up, shared_up, shared_down] = [
        "model.layers.{i}.mixer.fc1_latent_proj.weight",
        "model.layers.{i}.mixer.fc2_latent_proj.weight",
        "model.layers.{i}.mixer.shared_experts.up_proj.weight",
        "model.layers.{i}.mixer.shared_experts.down_proj.weight",
    ];
    let [each_up, each_down] = [
        "model.layers.{i}.mixer.experts.{e}.up_proj.weight",
        "model.layers.{i}.mixer.experts.{e}.down_proj.weight",
    ];
    [
        rule("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.mixer.gate.weight", [Experts, Embedding]),
        router::choice_bias("model.layers.{i}.mixer.gate.e_score_correction_bias")
            .or("model.layers.{i}.mixer.gate.e_score_correction.bias"),
        rule("blk.{i}.ffn_latent_down.weight", latent_down, [Latent, Embedding]).when(has_latent),
        rule("blk.{i}.ffn_latent_up.weight", latent_up, [Embedding, Latent]).when(has_latent),
        rule("blk.{i}.ffn_up_exps.weight", each_up, [Experts, ExpertFf, ExpertIn])
            .or("model.layers.{i}.mixer.experts.up_proj"),
        rule("blk.{i}.ffn_down_exps.weight", each_down, [Experts, ExpertIn, ExpertFf])
            .or("model.layers.{i}.mixer.experts.down_proj"),
        rule("blk.{i}.ffn_up_shexp.weight", shared_up, [SharedFf, Embedding]),
        rule("blk.{i}.ffn_down_shexp.weight", shared_down, [Embedding, SharedFf]),
    ]
    .into_iter()
    .map(Rule::in_expert_layers)
    .collect()
}
