//! Ling and Ring 2.0: GGUF `bailingmoe2`. Queries, keys and values in one matrix, a norm per head, part of each head
//! turned, the router of DeepSeek V3. Weights are normalised whatever `norm_topk_prob` says.

use super::architecture::Architecture;
use super::common::{self, EXPERTS, GROUPED, IGNORED, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rotation::rotated;
use super::router;
use super::rules::{Rule, rule};
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "bailingmoe2",
    gguf: "bailingmoe2",
    classes: &["BailingMoeV2ForCausalLM"],
    model_types: &["bailing_moe_v2"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        router::WEIGHTS,
        &[
            Key("leading_dense_block_count", From::MaybeUint(&["first_k_dense_replace"])),
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("", From::Computed(shared)),
            Key("", From::Computed(router::sigmoid)),
            Key("", From::Computed(supported)),
            Key("", From::Computed(common::silu_only)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[IGNORED],
    expert_layer: router::after_dense,
};

/// All shared experts as one, which llama.cpp wants to see: it would multiply their width by their number.
pub(super) fn shared(params: &Params) -> Result<Pairs> {
    match params.maybe(Dim::SharedFf)? {
        Some(width) if width > 0 && width <= u32::MAX as u64 => Ok(vec![
            ("expert_shared_feed_forward_length", (width as u32).into()),
            ("expert_shared_count", 1u32.into()),
        ]),
        _ => Err(Error::unsupported(
            "config: no shared experts",
            "at least one is what files of this architecture can hold",
        )),
    }
}

fn supported(params: &Params) -> Result<Pairs> {
    for name in ["norm_head", "use_qkv_bias", "use_bias"] {
        params.refuse(params.flag(&[name], false)?, name)?;
    }
    for name in ["use_qk_norm", "moe_router_enable_expert_bias"] {
        params.refuse(!params.flag(&[name], true)?, &format!("{name} false"))?;
    }
    // The code normalises unless there is but one; a configuration that says otherwise does not fit it.
    let normalised = params.dim(Dim::ExpertsUsed)? > 1;
    let stated = params.flag(&["norm_topk_prob"], normalised)?;
    params.refuse(stated != normalised, &format!("norm_topk_prob {stated}"))?;
    let (stated, turned) = (params.uint(&["rotary_dim"])?, rotated(params)?);
    if let Some(stated) = stated.filter(|&stated| stated != turned) {
        let expected = format!("{turned}, as partial_rotary_factor says");
        return Err(Error::malformed("config, rotary_dim", expected, stated));
    }
    Ok(vec![])
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let table = "model.word_embeddings.weight";
    let mut rules = vec![
        rule("token_embd.weight", table, [Vocab, Embedding]),
        rule("output_norm.weight", "model.norm.weight", [Embedding]),
        rule("output.weight", "lm_head.weight", [Vocab, Embedding])
            .only_if(common::untied)
            .or(table)
            .only_if(common::tied),
        rule("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight", [Embedding]),
        rule(
            "blk.{i}.attn_qkv.weight",
            "model.layers.{i}.attention.query_key_value.weight",
            [Qkv, Embedding],
        ),
        rule("blk.{i}.attn_q_norm.weight", "model.layers.{i}.attention.query_layernorm.weight", [Head]),
        rule("blk.{i}.attn_k_norm.weight", "model.layers.{i}.attention.key_layernorm.weight", [Head]),
        rule("blk.{i}.attn_output.weight", "model.layers.{i}.attention.dense.weight", [Embedding, Q]),
        common::ffn_norm(),
    ];
    rules.extend(common::dense());
    rules.extend(common::experts());
    rules.push(router::choice_bias("model.layers.{i}.mlp.gate.expert_bias"));
    rules.extend(common::shared_experts());
    rules
}
