//! Gemma 3, the text model: GGUF `gemma3`. Norms hold weight minus one; the vision tower is left out.

use super::architecture::Architecture;
use super::common::{self, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rules::{Rule, rule};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    gguf: "gemma3",
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    model_types: &["gemma3_text", "gemma3"],
    keys: &[
        SIZES,
        GROUPED,
        &[
            Key("attention.sliding_window", From::MaybeUint(&["sliding_window"])),
            Key("attention.sliding_window_pattern", From::Computed(pattern)),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[
        IGNORED,
        &[
            "vision_tower.*",
            "model.vision_tower.*",
            "multi_modal_projector.*",
            "model.multi_modal_projector.*",
        ],
    ],
    expert_layer: |_, _| false,
};

/// Every n-th layer sees everything. llama.cpp assumes 6 without the key.
fn pattern(params: &Params) -> Result<Pairs> {
    let layers = params.dim(Dim::Layers)?;
    let types = match params.get(&["layer_types"]) {
        Some((_, types)) => {
            Some(types.as_array().filter(|types| types.len() as u64 == layers).ok_or_else(|| {
                Error::malformed("config, layer_types", format!("a list of {layers}"), types)
            })?)
        }
        None => None,
    };
    let full = |types: &Vec<serde_json::Value>| types.iter().position(|kind| kind == "full_attention");
    let pattern = match types {
        Some(types) => full(types).map_or(layers + 1, |first| first as u64 + 1),
        None => params.uint(&["sliding_window_pattern"])?.unwrap_or(6),
    };
    params.refuse(pattern == 0 || pattern > 1 << 12, &format!("sliding_window_pattern {pattern}"))?;
    let regular = |(i, kind): (usize, &serde_json::Value)| {
        let expected =
            if (i as u64 + 1).is_multiple_of(pattern) { "full_attention" } else { "sliding_attention" };
        kind == expected
    };
    if types.is_some_and(|types| !types.iter().enumerate().all(regular)) {
        return Err(Error::unsupported(
            "config: layer_types without a period",
            "every n-th layer may see everything",
        ));
    }
    let slides = pattern > 1;
    params.refuse(
        slides && params.uint(&["sliding_window"])?.unwrap_or(0) == 0,
        "sliding layers without a window",
    )?;
    Ok(if pattern == 6 {
        vec![]
    } else {
        vec![("attention.sliding_window_pattern", Value::from(pattern as u32))]
    })
}

fn supported(params: &Params) -> Result<Pairs> {
    params.refuse(params.get(&["final_logit_softcapping"]).is_some(), "final_logit_softcapping")?;
    params.refuse(params.get(&["attn_logit_softcapping"]).is_some(), "attn_logit_softcapping")?;
    params.refuse(params.flag(&["use_bidirectional_attention"], false)?, "use_bidirectional_attention")?;
    let activation = params.text(&["hidden_activation"])?.unwrap_or("gelu_pytorch_tanh");
    params.refuse(activation != "gelu_pytorch_tanh", &format!("the activation {activation:?}"))?;
    let scalar = params.float(&["query_pre_attn_scalar"])?.unwrap_or(256.0);
    params.refuse(scalar <= 0.0, &format!("query_pre_attn_scalar {scalar}"))?;
    let usual = scalar == params.dim(Dim::Head)? as f32;
    Ok(if usual { vec![] } else { vec![("attention.scale", Value::from(1.0 / scalar.sqrt()))] })
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mut rules = common::ends();
    let norm = |rule: Rule| if rule.to.ends_with("norm.weight") { rule.plus_one() } else { rule };
    rules = rules.into_iter().map(norm).collect();
    rules.extend(common::attention().into_iter().map(norm));
    rules.extend(common::head_norms().into_iter().map(norm));
    for (to, from) in [
        ("blk.{i}.post_attention_norm.weight", "model.layers.{i}.post_attention_layernorm.weight"),
        ("blk.{i}.ffn_norm.weight", "model.layers.{i}.pre_feedforward_layernorm.weight"),
        ("blk.{i}.post_ffw_norm.weight", "model.layers.{i}.post_feedforward_layernorm.weight"),
    ] {
        rules.push(rule(to, from, [Embedding]).plus_one());
    }
    rules.extend(common::dense());
    rules
}
