//! What Qwen3-Next and Qwen3.5 share: layers of the gated delta rule, whose state takes the place of past positions, and
//! between them attention whose output is gated by a second half of the queries.

use super::common;
use super::keys::{From, Key, Pairs};
use super::kinds::{self, Kind, Words};
use super::params::{Dim, Params};
use super::rules::{Change, Op, Rule, rule};
use moewe_engine::Result;

/// The numbers of states, and what is not computed.
pub(super) const STATES: &[Key] = &[
    Key("ssm.conv_kernel", From::Dim(Dim::Taps)),
    Key("ssm.state_size", From::Dim(Dim::KeyWidth)),
    Key("ssm.group_count", From::Dim(Dim::KeyHeads)),
    Key("ssm.time_step_rank", From::Dim(Dim::ValueHeads)),
    Key("ssm.inner_size", From::Dim(Dim::DeltaValues)),
    Key("attention.recurrent_layers", From::Computed(recurrent)),
    Key("", From::Computed(supported)),
    Key("", From::Computed(common::silu_only)),
];

/// Layers and towers that text does not need: images, and predictions of further tokens.
pub(super) const OTHERS: &[&str] = &["mtp.*", "model.mtp.*", "visual.*", "model.visual.*"];

const WORDS: Words = &[("linear_attention", Kind::Recurrent), ("full_attention", Kind::Attention)];

/// Every so many layers one attends, where the configuration does not list them.
fn interval(params: &Params) -> Result<u64> {
    let interval = params.uint(&["full_attention_interval"])?.unwrap_or(4);
    params.refuse(!(1..1 << 12).contains(&interval), &format!("full_attention_interval {interval}"))?;
    Ok(interval)
}

fn kinds(params: &Params) -> Result<Vec<Kind>> {
    let layers = params.dim(Dim::Layers)?;
    if let Some(kinds) = kinds::listed(params, layers, "layer_types", WORDS)? {
        return Ok(kinds);
    }
    let interval = interval(params)?;
    let kind = |layer: u64| {
        if (layer + 1).is_multiple_of(interval) { Kind::Attention } else { Kind::Recurrent }
    };
    Ok((0..layers).map(kind).collect())
}

fn recurs(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Recurrent)
}

fn attends(params: &Params, layer: u64) -> bool {
    kinds::is(kinds(params), layer, Kind::Attention)
}

fn recurrent(params: &Params) -> Result<Pairs> {
    params.dim(Dim::ValuesPerKey)?; // key heads divide value heads
    let recurrent: Vec<bool> = kinds(params)?.into_iter().map(|kind| kind == Kind::Recurrent).collect();
    Ok(vec![
        ("attention.recurrent_layers", recurrent.into()),
        ("full_attention_interval", (interval(params)? as u32).into()),
    ])
}

fn supported(params: &Params) -> Result<Pairs> {
    params.refuse(params.flag(&["attention_bias"], false)?, "attention_bias")?;
    params.refuse(!params.flag(&["attn_output_gate"], true)?, "attn_output_gate false")?;
    params.refuse(!params.flag(&["norm_topk_prob"], true)?, "norm_topk_prob false")?;
    Ok(vec![])
}

/// Norms hold weight minus one, but for the one within the delta rule.
pub(super) fn ends() -> Vec<Rule> {
    let norm = |rule: Rule| if rule.to == "output_norm.weight" { rule.plus_one() } else { rule };
    common::ends().into_iter().map(norm).collect()
}

/// Attention and its norms, and the norm before the feed-forward layer.
pub(super) fn attention() -> Vec<Rule> {
    use Dim::*;
    let here = |rule: Rule| rule.in_layers(attends);
    let of_heads = common::head_norms().into_iter().map(|rule| here(rule.plus_one()));
    [
        rule("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight", [Embedding]).plus_one(),
        rule(
            "blk.{i}.post_attention_norm.weight",
            "model.layers.{i}.post_attention_layernorm.weight",
            [Embedding],
        )
        .plus_one(),
        here(rule("blk.{i}.attn_q.weight", "model.layers.{i}.self_attn.q_proj.weight", [QGated, Embedding])),
        here(rule("blk.{i}.attn_k.weight", "model.layers.{i}.self_attn.k_proj.weight", [Kv, Embedding])),
        here(rule("blk.{i}.attn_v.weight", "model.layers.{i}.self_attn.v_proj.weight", [Kv, Embedding])),
        here(rule("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.o_proj.weight", [Embedding, Q])),
    ]
    .into_iter()
    .chain(of_heads)
    .collect()
}

/// The delta rule as Qwen3-Next's files have it: value heads in the order of the checkpoint, queries, keys, values and
/// gates of a key head together.
pub(super) fn grouped() -> impl Iterator<Item = Rule> {
    use Dim::*;
    const QKVZ: &[Dim] = &[KeyWidth, KeyWidth, ValuesPerKey, ValuesPerKey];
    let section = |section| Op::Section(KeyHeads, QKVZ, section);
    let input = "model.layers.{i}.linear_attn.in_proj_qkvz.weight";
    let pairs = "model.layers.{i}.linear_attn.in_proj_ba.weight";
    let of_input = [
        rule("blk.{i}.attn_qkv.weight", input, [DeltaQkv, Embedding]).pieces(&[
            &[section(0)],
            &[section(1)],
            &[section(2)],
        ]),
        rule("blk.{i}.attn_gate.weight", input, [DeltaValues, Embedding]).op(section(3)),
        rule("blk.{i}.ssm_ba.weight", pairs, [DeltaPairs, Embedding]),
    ];
    of_input.into_iter().chain(states()).map(|rule| rule.in_layers(recurs))
}

/// The same as Qwen3.5's files have it: value heads in the order that llama.cpp computes them in.
pub(super) fn tiled() -> impl Iterator<Item = Rule> {
    use Dim::*;
    const QKV: &[Dim] = &[DeltaKeys, DeltaKeys, DeltaValues];
    let section = |section| Op::Section(One, QKV, section);
    let pieces: &[&[Op]] = &[&[section(0)], &[section(1)], &[section(2), Op::TileRows]];
    let input = "model.layers.{i}.linear_attn.in_proj_qkv.weight";
    let [gate, alpha, beta] = [
        "model.layers.{i}.linear_attn.in_proj_z.weight",
        "model.layers.{i}.linear_attn.in_proj_a.weight",
        "model.layers.{i}.linear_attn.in_proj_b.weight",
    ];
    let of_input = [
        rule("blk.{i}.attn_qkv.weight", input, [DeltaQkv, Embedding]).pieces(pieces),
        rule("blk.{i}.attn_gate.weight", gate, [DeltaValues, Embedding]).op(Op::TileRows),
        rule("blk.{i}.ssm_alpha.weight", alpha, [ValueHeads, Embedding]).op(Op::TileRows),
        rule("blk.{i}.ssm_beta.weight", beta, [ValueHeads, Embedding]).op(Op::TileRows),
    ];
    let tile = move |rule: Rule| match rule.to {
        "blk.{i}.ssm_a" | "blk.{i}.ssm_dt.bias" => rule.op(Op::TileRows),
        "blk.{i}.ssm_conv1d.weight" => rule.pieces(pieces),
        "blk.{i}.ssm_out.weight" => rule.op(Op::TileColumns),
        _ => rule,
    };
    let rules: Vec<Rule> = of_input.into_iter().chain(states().map(tile)).collect();
    rules.into_iter().map(|rule| rule.in_layers(recurs))
}

/// What both have alike.
fn states() -> impl Iterator<Item = Rule> {
    use Dim::*;
    [
        rule("blk.{i}.ssm_a", "model.layers.{i}.linear_attn.A_log", [ValueHeads]).changed(Change::MinusExp),
        rule("blk.{i}.ssm_dt.bias", "model.layers.{i}.linear_attn.dt_bias", [ValueHeads]),
        rule("blk.{i}.ssm_conv1d.weight", "model.layers.{i}.linear_attn.conv1d.weight", [DeltaQkv, Taps])
            .op(Op::Squeeze),
        rule("blk.{i}.ssm_norm.weight", "model.layers.{i}.linear_attn.norm.weight", [ValueWidth]),
        rule(
            "blk.{i}.ssm_out.weight",
            "model.layers.{i}.linear_attn.out_proj.weight",
            [Embedding, DeltaValues],
        ),
    ]
    .into_iter()
}
