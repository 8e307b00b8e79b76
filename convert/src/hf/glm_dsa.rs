//! GLM-5 to 5.2: GGUF `glm-dsa`. Latent attention and router of DeepSeek V3; an indexer chooses the positions that a layer
//! looks at, or the layer takes over what the one before it chose. What chooses turns neighbouring pairs, as attention does.

use super::architecture::Architecture;
use super::common::{EXPERTS, IGNORED, SIZES};
use super::deepseek2::{self, LATENT};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::router;
use super::rules::{Rule, rule};
use moewe_engine::gguf::Value;
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "glm_dsa",
    gguf: "glm-dsa",
    classes: &["GlmMoeDsaForCausalLM"],
    model_types: &["glm_moe_dsa"],
    keys: &[
        SIZES,
        EXPERTS,
        router::WEIGHTS,
        LATENT,
        INDEXER,
        &[Key("", From::Computed(router::sigmoid)), Key("", From::Computed(choosers))],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: deepseek2::expert_layer,
};

/// Sizes of what chooses positions.
pub(super) const INDEXER: &[Key] = &[
    Key("attention.indexer.head_count", From::Dim(Dim::IndexHeads)),
    Key("attention.indexer.key_length", From::Dim(Dim::IndexHead)),
    Key("attention.indexer.top_k", From::Dim(Dim::IndexBest)),
];

/// The layers that choose for themselves.
fn choosers(params: &Params) -> Result<Pairs> {
    let layers = params.dim(Dim::Layers)?;
    let choosers: Vec<bool> = (0..layers).map(|layer| chooses(params, layer)).collect::<Result<_>>()?;
    params.refuse(!choosers[0], "indexer_types whose first layer takes over what none has chosen")?;
    Ok(vec![("attention.indexer.types", Value::from(choosers))])
}

/// As transformers' class has it: a list, letters in `index_topk_pattern`, or every so manieth layer behind the first.
fn chooses(params: &Params, layer: u64) -> Result<bool> {
    let wrong = |found: &str| {
        let place = format!("config, indexer_types of layer {layer}");
        Err(Error::malformed(place, "\"full\" or \"shared\"", format!("{found:?}")))
    };
    let listed = params.get(&["indexer_types", "index_topk_pattern"]);
    match listed.map(|(_, list)| list) {
        Some(serde_json::Value::Array(kinds)) => {
            match kinds.get(layer as usize).and_then(|kind| kind.as_str()) {
                Some("full") => Ok(true),
                Some("shared") => Ok(false),
                other => wrong(other.unwrap_or("nothing")),
            }
        }
        Some(serde_json::Value::String(letters)) => match letters.chars().nth(layer as usize) {
            Some('F') => Ok(true),
            Some('S') => Ok(false),
            other => wrong(&other.map(String::from).unwrap_or_default()),
        },
        _ => {
            let every = params.uint(&["index_topk_freq"])?.unwrap_or(1).max(1);
            let first = params.uint(&["index_skip_topk_offset"])?.unwrap_or(2);
            Ok((layer + 1).saturating_sub(first).is_multiple_of(every))
        }
    }
}

/// Those of DeepSeek V3, and the tensors of what chooses positions in layers that do so for themselves.
fn rules() -> Vec<Rule> {
    let mut rules = deepseek2::rules();
    let own = |params: &Params, layer: u64| chooses(params, layer).unwrap_or(true);
    rules.extend(indexer().into_iter().map(|rule| rule.in_layers(own)));
    rules
}

/// The tensors of what chooses positions.
pub(super) fn indexer() -> Vec<Rule> {
    use Dim::*;
    vec![
        rule(
            "blk.{i}.indexer.k_norm.weight",
            "model.layers.{i}.self_attn.indexer.k_norm.weight",
            [IndexHead],
        ),
        rule("blk.{i}.indexer.k_norm.bias", "model.layers.{i}.self_attn.indexer.k_norm.bias", [IndexHead]),
        rule(
            "blk.{i}.indexer.proj.weight",
            "model.layers.{i}.self_attn.indexer.weights_proj.weight",
            [IndexHeads, Embedding],
        ),
        rule(
            "blk.{i}.indexer.attn_k.weight",
            "model.layers.{i}.self_attn.indexer.wk.weight",
            [IndexHead, Embedding],
        ),
        rule(
            "blk.{i}.indexer.attn_q_b.weight",
            "model.layers.{i}.self_attn.indexer.wq_b.weight",
            [IndexQ, QRank],
        ),
    ]
}
