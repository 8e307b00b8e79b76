//! Mamba-2, which Nemotron and Granite mix with attention: its numbers, its tensors, and what of it is not computed.

use super::keys::Pairs;
use super::params::{Dim, Params};
use super::rules::{Change, Op, Rule, rule};
use moewe_engine::Result;
use moewe_engine::gguf::Value;

/// The numbers of states.
pub(super) fn states(params: &Params) -> Result<Pairs> {
    let numbers = [
        ("ssm.conv_kernel", Dim::Taps),
        ("ssm.state_size", Dim::State),
        ("ssm.group_count", Dim::StateGroups),
        ("ssm.inner_size", Dim::Inner),
        ("ssm.time_step_rank", Dim::StateHeads),
    ];
    numbers.into_iter().map(|(key, dim)| Ok((key, Value::from(params.dim(dim)? as u32)))).collect()
}

/// The length of context that llama.cpp writes for models whose attention knows no positions.
pub(super) const CONTEXT: u32 = 1 << 20;

/// Refuses biases of projections, convolutions without one, and limits on time steps.
pub(super) fn supported(params: &Params) -> Result<()> {
    for name in ["mamba_proj_bias", "use_bias"] {
        params.refuse(params.flag(&[name], false)?, name)?;
    }
    for name in ["mamba_conv_bias", "use_conv_bias"] {
        params.refuse(!params.flag(&[name], true)?, &format!("{name} false"))?;
    }
    params.dim(Dim::GroupWidth)?; // groups divide heads
    let Some((_, limits)) = params.get(&["time_step_limit"]) else { return Ok(()) };
    // transformers writes numbers that JSON does not have as {"__float__": "Infinity"}, others bare.
    let is_infinite = |limit: &serde_json::Value| limit == "Infinity" || limit["__float__"] == "Infinity";
    let limits_nothing = limits[0] == 0.0 || limits[0] == 0;
    params.refuse(!limits_nothing || !is_infinite(&limits[1]), &format!("time_step_limit {limits}"))
}

/// The mixer of a layer; `names` are those of input, convolution and its bias, time step, decay, skip, norm, output.
pub(super) fn mixer(names: [&'static str; 8]) -> impl Iterator<Item = Rule> {
    use Dim::*;
    let [input, taps, bias, step, decay, skip, norm, output] = names;
    [
        rule("blk.{i}.ssm_in.weight", input, [Mixed, Embedding]),
        rule("blk.{i}.ssm_conv1d.weight", taps, [Channels, Taps]).op(Op::Squeeze),
        rule("blk.{i}.ssm_conv1d.bias", bias, [Channels]),
        rule("blk.{i}.ssm_dt.bias", step, [StateHeads]),
        rule("blk.{i}.ssm_a", decay, [StateHeads, One]).op(Op::Unsqueeze).changed(Change::MinusExp),
        rule("blk.{i}.ssm_d", skip, [StateHeads, One]).op(Op::Unsqueeze),
        rule("blk.{i}.ssm_norm.weight", norm, [StateGroups, GroupWidth]).op(Op::Fold(StateGroups)),
        rule("blk.{i}.ssm_out.weight", output, [Embedding, Inner]),
    ]
    .into_iter()
}
