//! Gemma 3, the text model: GGUF `gemma3`. Norms hold weight minus one; the vision tower is left out.

use super::Architecture;
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
    defaults: DEFAULTS,
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

/// Gemma3TextConfig of transformers.
const DEFAULTS: &[(&str, u64)] = &[
    ("vocab_size", 262_208),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("head_dim", 256),
    ("max_position_embeddings", 131_072),
    ("sliding_window", 4096),
];

/// Every n-th layer sees everything. llama.cpp assumes 6 without the key.
fn pattern(params: &Params) -> Result<Pairs> {
    let stated = params.uint(&["sliding_window_pattern", "_sliding_window_pattern"])?;
    let types = params.get(&["layer_types"]).and_then(|(_, types)| types.as_array());
    let full = |types: &Vec<serde_json::Value>| types.iter().position(|kind| kind == "full_attention");
    let pattern = match (stated, types.and_then(full)) {
        (Some(stated), _) => stated,
        (None, Some(first)) => first as u64 + 1,
        (None, None) => 6,
    };
    let regular = |(i, kind): (usize, &serde_json::Value)| {
        (kind == "full_attention") == (i as u64 + 1).is_multiple_of(pattern.max(1))
    };
    if types.is_some_and(|types| !types.iter().enumerate().all(regular)) {
        return Err(Error::unsupported(
            "config: layer_types without a period",
            "every n-th layer may see everything",
        ));
    }
    Ok(if pattern == 6 {
        vec![]
    } else {
        vec![("attention.sliding_window_pattern", Value::from(pattern as u32))]
    })
}

fn supported(params: &Params) -> Result<Pairs> {
    params.refuse(params.get(&["final_logit_softcapping"]).is_some(), "final_logit_softcapping")?;
    params.refuse(params.get(&["attn_logit_softcapping"]).is_some(), "attn_logit_softcapping")?;
    let activation = params.text(&["hidden_activation"])?.unwrap_or("gelu_pytorch_tanh");
    params.refuse(activation != "gelu_pytorch_tanh", &format!("the activation {activation:?}"))?;
    let Some(scalar) = params.float(&["query_pre_attn_scalar"])? else { return Ok(vec![]) };
    let usual = scalar as u64 == params.dim(Dim::Head)?;
    Ok(if usual { vec![] } else { vec![("attention.scale", Value::from(1.0 / scalar.sqrt()))] })
}

fn untied(params: &Params) -> bool {
    !params.flag(&["tie_word_embeddings"], true).unwrap_or(true)
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mut rules = vec![
        rule("token_embd.weight", "model.embed_tokens.weight", [Vocab, Embedding]),
        rule("output_norm.weight", "model.norm.weight", [Embedding]).plus_one(),
        rule("output.weight", "lm_head.weight", [Vocab, Embedding]).only_if(untied).optional(),
    ];
    let norm = |rule: Rule| if rule.to.ends_with("norm.weight") { rule.plus_one() } else { rule };
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
