//! The router of DeepSeek V3, which most families have taken over: a sigmoid of each logit, a bias that counts in the
//! choice alone, experts in groups of which a token may use some (DeepSeek V3 report, section 2.1.2).

use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Rule, rule};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

/// What every such router says of its weights.
pub(super) const WEIGHTS: &[Key] = &[
    Key("expert_weights_scale", From::Float(&["routed_scaling_factor"])),
    Key("expert_weights_norm", From::Flag(&["norm_topk_prob"])),
];

/// Gating and groups.
pub(super) fn sigmoid(params: &Params) -> Result<Pairs> {
    scores_are_sigmoid(params)?;
    let method = params.text(&["topk_method"])?.unwrap_or("noaux_tc");
    params.refuse(method != "noaux_tc", &format!("topk_method {method:?}"))?;
    let mut pairs: Pairs = vec![("expert_gating_func", Value::from(2u32))];
    pairs.extend(groups(params)?);
    Ok(pairs)
}

/// Refuses other scores than these classes compute, whatever the configuration says.
pub(super) fn scores_are_sigmoid(params: &Params) -> Result<()> {
    let scoring = params.text(&["scoring_func", "score_function"])?.unwrap_or("sigmoid");
    params.refuse(scoring != "sigmoid", &format!("scores of experts by {scoring:?}"))
}

/// The groups, of which each holds as many experts, and how many of them a token may use.
pub(super) fn groups(params: &Params) -> Result<Pairs> {
    let count = |name: &str| {
        let number = params.uint(&[name])?.filter(|&number| number > 0);
        number.ok_or_else(|| Error::malformed(format!("config, {name}"), "a number of groups", "none"))
    };
    let (groups, used) = (count("n_group")?, count("topk_group")?);
    let (experts, chosen) = (params.dim(Dim::Experts)?, params.dim(Dim::ExpertsUsed)?);
    if experts % groups != 0 || used > groups || chosen > experts / groups * used {
        let expected = format!("groups that divide {experts} experts and hold {chosen} in those used");
        return Err(Error::malformed("config, n_group", expected, format!("{used} of {groups}")));
    }
    Ok(vec![
        ("expert_group_count", Value::from(groups as u32)),
        ("expert_group_used_count", Value::from(used as u32)),
    ])
}

/// The bias that counts in the choice alone.
pub(super) fn choice_bias(from: &'static str) -> Rule {
    rule("blk.{i}.exp_probs_b.bias", from, [Dim::Experts]).in_expert_layers()
}

/// Whether a layer has experts: all but the first few.
pub(super) fn after_dense(params: &Params, layer: u64) -> bool {
    layer >= params.uint(&["first_k_dense_replace"]).ok().flatten().unwrap_or(0)
}
