//! DeepSeek V4 (Flash, Pro): GGUF `deepseek4`, from files as their publisher names them. Keys that are values as well,
//! windows with compressed positions behind them, several residual streams, experts that the first layers choose by the
//! token. Experts in MXFP4 keep their bits.

use super::architecture::Architecture;
use super::common::{self, BODY, EXPERTS};
use super::compressed::{self, ratio_of};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, HEAVY, Params, SPARSE};
use super::rope;
use super::router;
use super::rules::{Rule, rule};
use moewe_engine::Result;
use moewe_engine::gguf::Value;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek4",
    gguf: "deepseek4",
    classes: &["DeepseekV4ForCausalLM"],
    model_types: &["deepseek_v4"],
    keys: &[
        BODY,
        EXPERTS,
        router::WEIGHTS,
        &[
            Key("attention.head_count_kv", From::Dim(Dim::HeadsKv)),
            Key("attention.key_length", From::Dim(Dim::Head)),
            Key("attention.value_length", From::Dim(Dim::Head)),
            Key("attention.layer_norm_rms_epsilon", From::Float(&["rms_norm_eps"])),
            Key("rope.*", From::Computed(rope::keys)),
            Key("attention.q_lora_rank", From::Dim(Dim::QRank)),
            Key("attention.sliding_window", From::Computed(compressed::window)),
            Key("attention.output_group_count", From::Dim(Dim::OutGroups)),
            Key("attention.output_lora_rank", From::Dim(Dim::OutRank)),
            Key("attention.indexer.head_count", From::Dim(Dim::IndexHeads)),
            Key("attention.indexer.key_length", From::Dim(Dim::IndexHead)),
            Key("attention.indexer.top_k", From::Dim(Dim::IndexBest)),
            Key("attention.compress_ratios", From::Computed(compressed::ratios_key)),
            Key("hyper_connection.count", From::Dim(Dim::Streams)),
            Key("hyper_connection.sinkhorn_iterations", From::MaybeUint(&["hc_sinkhorn_iters"])),
            Key("hyper_connection.epsilon", From::Float(&["hc_eps"])),
            Key("embedding_length_out", From::Dim(Dim::StreamsWide)),
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("expert_shared_count", From::Dim(Dim::ExpertsShared)),
            Key("expert_gating_func", From::Uint(4)),
            Key("hash_layer_count", From::Computed(hash_layers_key)),
            Key("swiglu_clamp_*", From::Computed(limits)),
            Key("", From::Computed(supported)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[&["mtp.*"]],
    expert_layer: |_, _| true,
};

/// Layers in front whose experts a table chooses.
fn hash_layers(params: &Params) -> Result<u64> {
    let layers = params.dim(Dim::Layers)?;
    let Some((_, kinds)) = params.get(&["mlp_layer_types"]) else {
        // The class has three where nothing is said.
        return Ok(params.uint(&["num_hash_layers"])?.unwrap_or(3).min(layers));
    };
    let kinds = kinds.as_array().map_or(&[][..], Vec::as_slice);
    let leading = kinds.iter().take_while(|kind| *kind == "hash_moe").count();
    let is_regular = kinds.len() as u64 == layers && kinds[leading..].iter().all(|kind| kind == "moe");
    params
        .refuse(!is_regular, "mlp_layer_types other than hash_moe in front and moe behind, one per layer")?;
    Ok(leading as u64)
}

fn hash_layers_key(params: &Params) -> Result<Pairs> {
    Ok(vec![("hash_layer_count", Value::from(hash_layers(params)? as u32))])
}

/// Bounds of gates and hidden units, the same in all layers.
fn limits(params: &Params) -> Result<Pairs> {
    let limit = params.float(&["swiglu_limit"])?.unwrap_or(0.0);
    params.refuse(limit <= 0.0, "no swiglu_limit above 0")?;
    let all = vec![limit; params.dim(Dim::Layers)? as usize];
    Ok(vec![("swiglu_clamp_exp", Value::from(all.clone())), ("swiglu_clamp_shexp", Value::from(all))])
}

/// Refuses what the class does not compute, or files of this architecture cannot say.
fn supported(params: &Params) -> Result<Pairs> {
    for bias in ["attention_bias", "mlp_bias"] {
        params.refuse(params.flag(&[bias], false)?, bias)?;
    }
    params.refuse(params.dim(Dim::HeadsKv)? != 1, "more than one key head")?;
    params.refuse(!params.flag(&["norm_topk_prob"], true)?, "norm_topk_prob false")?;
    let scoring = params.text(&["scoring_func"])?.unwrap_or("sqrtsoftplus");
    params.refuse(scoring != "sqrtsoftplus", &format!("scores of experts by {scoring:?}"))?;
    let method = params.text(&["topk_method"])?.unwrap_or("noaux_tc");
    params.refuse(method != "noaux_tc", &format!("topk_method {method:?}"))?;
    compressed::supported(params)?;
    common::silu_only(params)
}

fn is_hashed(params: &Params, layer: u64) -> bool {
    hash_layers(params).is_ok_and(|count| layer < count)
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mut rules = vec![
        rule("token_embd.weight", "embed.weight", [Vocab, Embedding]),
        rule("output_norm.weight", "norm.weight", [Embedding]),
        rule("output.weight", "head.weight", [Vocab, Embedding]).when(common::untied),
        rule("output_hc_fn.weight", "hc_head_fn", [Streams, StreamsWide]),
        rule("output_hc_base.weight", "hc_head_base", [Streams]),
        rule("output_hc_scale.weight", "hc_head_scale", [One]),
        rule("blk.{i}.hc_attn_fn.weight", "layers.{i}.hc_attn_fn", [StreamMix, StreamsWide]),
        rule("blk.{i}.hc_attn_base.weight", "layers.{i}.hc_attn_base", [StreamMix]),
        rule("blk.{i}.hc_attn_scale.weight", "layers.{i}.hc_attn_scale", [Three]),
        rule("blk.{i}.hc_ffn_fn.weight", "layers.{i}.hc_ffn_fn", [StreamMix, StreamsWide]),
        rule("blk.{i}.hc_ffn_base.weight", "layers.{i}.hc_ffn_base", [StreamMix]),
        rule("blk.{i}.hc_ffn_scale.weight", "layers.{i}.hc_ffn_scale", [Three]),
    ];
    rules.extend(attention());
    rules.extend(compressor());
    rules.extend(experts());
    rules
}

fn attention() -> [Rule; 9] {
    use Dim::*;
    [
        rule("blk.{i}.attn_norm.weight", "layers.{i}.attn_norm.weight", [Embedding]),
        rule("blk.{i}.attn_sinks.weight", "layers.{i}.attn.attn_sink", [Heads]),
        rule("blk.{i}.attn_q_a.weight", "layers.{i}.attn.wq_a.weight", [QRank, Embedding]),
        rule("blk.{i}.attn_q_a_norm.weight", "layers.{i}.attn.q_norm.weight", [QRank]),
        rule("blk.{i}.attn_q_b.weight", "layers.{i}.attn.wq_b.weight", [Q, QRank]),
        rule("blk.{i}.attn_kv.weight", "layers.{i}.attn.wkv.weight", [Head, Embedding]),
        rule("blk.{i}.attn_kv_a_norm.weight", "layers.{i}.attn.kv_norm.weight", [Head]),
        rule("blk.{i}.attn_output_a.weight", "layers.{i}.attn.wo_a.weight", [OutRanks, OutGroupIn]),
        rule("blk.{i}.attn_output_b.weight", "layers.{i}.attn.wo_b.weight", [Embedding, OutRanks]),
    ]
}

fn compressor() -> Vec<Rule> {
    use Dim::*;
    let sparse = |params: &Params, layer| ratio_of(params, layer) == SPARSE;
    let heavy = |params: &Params, layer| ratio_of(params, layer) == HEAVY;
    let any = |params: &Params, layer| ratio_of(params, layer) != 0;
    let [kv, gate, ape, norm] = [
        "layers.{i}.attn.compressor.wkv.weight",
        "layers.{i}.attn.compressor.wgate.weight",
        "layers.{i}.attn.compressor.ape",
        "layers.{i}.attn.compressor.norm.weight",
    ];
    let [to_kv, to_gate, to_ape] = [
        "blk.{i}.attn_compressor_kv.weight",
        "blk.{i}.attn_compressor_gate.weight",
        "blk.{i}.attn_compressor_ape.weight",
    ];
    let [index_kv, index_gate, index_ape] = [
        "layers.{i}.attn.indexer.compressor.wkv.weight",
        "layers.{i}.attn.indexer.compressor.wgate.weight",
        "layers.{i}.attn.indexer.compressor.ape",
    ];
    let index_norm = "layers.{i}.attn.indexer.compressor.norm.weight";
    let index_q = "layers.{i}.attn.indexer.wq_b.weight";
    let index_weights = "layers.{i}.attn.indexer.weights_proj.weight";
    vec![
        rule(to_kv, kv, [Head2, Embedding]).in_layers(sparse),
        rule(to_gate, gate, [Head2, Embedding]).in_layers(sparse),
        rule(to_ape, ape, [RatioSparse, Head2]).in_layers(sparse),
        rule(to_kv, kv, [Head, Embedding]).in_layers(heavy),
        rule(to_gate, gate, [Head, Embedding]).in_layers(heavy),
        rule(to_ape, ape, [RatioHeavy, Head]).in_layers(heavy),
        rule("blk.{i}.attn_compressor_norm.weight", norm, [Head]).in_layers(any),
        rule("blk.{i}.indexer_compressor_kv.weight", index_kv, [IndexHead2, Embedding]).in_layers(sparse),
        rule("blk.{i}.indexer_compressor_gate.weight", index_gate, [IndexHead2, Embedding]).in_layers(sparse),
        rule("blk.{i}.indexer_compressor_ape.weight", index_ape, [RatioSparse, IndexHead2]).in_layers(sparse),
        rule("blk.{i}.indexer_compressor_norm.weight", index_norm, [IndexHead]).in_layers(sparse),
        rule("blk.{i}.indexer.attn_q_b.weight", index_q, [IndexQ, QRank]).in_layers(sparse),
        rule("blk.{i}.indexer.proj.weight", index_weights, [IndexHeads, Embedding]).in_layers(sparse),
    ]
}

fn experts() -> Vec<Rule> {
    use Dim::*;
    let [w1, w2, w3] = [
        "layers.{i}.ffn.experts.{e}.w1.weight",
        "layers.{i}.ffn.experts.{e}.w2.weight",
        "layers.{i}.ffn.experts.{e}.w3.weight",
    ];
    let [shared1, shared2, shared3] = [
        "layers.{i}.ffn.shared_experts.w1.weight",
        "layers.{i}.ffn.shared_experts.w2.weight",
        "layers.{i}.ffn.shared_experts.w3.weight",
    ];
    vec![
        rule("blk.{i}.ffn_norm.weight", "layers.{i}.ffn_norm.weight", [Embedding]),
        rule("blk.{i}.ffn_gate_inp.weight", "layers.{i}.ffn.gate.weight", [Experts, Embedding]),
        rule("blk.{i}.ffn_gate_tid2eid.weight", "layers.{i}.ffn.gate.tid2eid", [Vocab, ExpertsUsed])
            .indices()
            .in_layers(is_hashed),
        router::choice_bias("layers.{i}.ffn.gate.bias").in_layers(|params, layer| !is_hashed(params, layer)),
        rule("blk.{i}.ffn_gate_exps.weight", w1, [Experts, ExpertFf, Embedding]),
        rule("blk.{i}.ffn_up_exps.weight", w3, [Experts, ExpertFf, Embedding]),
        rule("blk.{i}.ffn_down_exps.weight", w2, [Experts, Embedding, ExpertFf]),
        rule("blk.{i}.ffn_gate_shexp.weight", shared1, [SharedFf, Embedding]),
        rule("blk.{i}.ffn_up_shexp.weight", shared3, [SharedFf, Embedding]),
        rule("blk.{i}.ffn_down_shexp.weight", shared2, [Embedding, SharedFf]),
    ]
}
