//! German MoE GPT v8: GGUF `moe-gpt`, an architecture of our own (nothing in llama.cpp has layer norms, exact GELU
//! experts and capacity together). Experts are stored (in, out); the head is the embedding.
//!
//! Keys: those of `moe_124m.rs` with `feed_forward_activation` one of gelu_erf, relu, swiglu, and besides
//! `rope.freq_base rope.dimension_count`, `expert_capacity_factor`, `expert_layer_frequency` (layers 0, n, 2n … have
//! experts).

use super::architecture::Architecture;
use super::common::{EXPERTS, SIZES};
use super::keys::{From, Key, Pairs};
use super::params::{Dim, Params};
use super::rope;
use super::rules::{Op, Rule, rule};
use moewe_engine::{Error, Result};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe_gpt",
    gguf: "moe-gpt",
    classes: &["MoEGPTForCausalLM"],
    model_types: &["moe_gpt"],
    keys: &[
        SIZES,
        EXPERTS,
        &[
            Key("attention.head_count_kv", From::Dim(Dim::Heads)),
            Key("attention.layer_norm_epsilon", From::Float(&["layer_norm_epsilon"])),
            Key("rope.*", From::Computed(rope::keys)),
            Key("feed_forward_activation", From::Computed(activation)),
            Key("expert_layer_frequency", From::MaybeUint(&["moe_layer_frequency"])),
            Key("expert_capacity_factor", From::Float(&["capacity_factor"])),
            Key("expert_gating_func", From::Uint(3)), // softmax over the chosen
            Key("expert_weights_norm", From::Bool(false)),
        ],
    ],
    rules,
    computed: &[],
    // Noise is for training; the head is the embedding.
    ignored: &[&["lm_head.weight", "transformer.h.{i}.moe.router.w_noise.weight"]],
    expert_layer,
};

fn frequency(params: &Params) -> u64 {
    params.uint(&["moe_layer_frequency"]).ok().flatten().unwrap_or(2).max(1)
}

fn expert_layer(params: &Params, layer: u64) -> bool {
    layer.is_multiple_of(frequency(params))
}

fn activation(params: &Params) -> Result<Pairs> {
    let name = params.text(&["activation_function"])?.unwrap_or("gelu");
    let ours = match name {
        "gelu" => "gelu_erf",
        "relu" => "relu",
        "swiglu" => "swiglu",
        _ => return Err(Error::malformed("config, activation_function", "gelu, relu or swiglu", name)),
    };
    Ok(vec![("feed_forward_activation", ours.into())])
}

fn gated(params: &Params) -> bool {
    params.text(&["activation_function"]).ok().flatten() == Some("swiglu")
}

fn biased(params: &Params) -> bool {
    params.flag(&["bias"], false).unwrap_or(false)
}

fn rules() -> Vec<Rule> {
    use Dim::*;
    let mut rules = vec![
        rule("token_embd.weight", "transformer.wte.weight", [Vocab, Embedding]),
        rule("output_norm.weight", "transformer.ln_f.weight", [Embedding]),
        rule("output_norm.bias", "transformer.ln_f.bias", [Embedding]),
        rule("blk.{i}.attn_norm.weight", "transformer.h.{i}.ln_1.weight", [Embedding]),
        rule("blk.{i}.attn_norm.bias", "transformer.h.{i}.ln_1.bias", [Embedding]),
        rule("blk.{i}.attn_qkv.weight", "transformer.h.{i}.attn.c_attn.weight", [Qkv, Embedding]),
        rule("blk.{i}.attn_qkv.bias", "transformer.h.{i}.attn.c_attn.bias", [Qkv]).when(biased),
        rule("blk.{i}.attn_output.weight", "transformer.h.{i}.attn.c_proj.weight", [Embedding, Embedding]),
        rule("blk.{i}.attn_output.bias", "transformer.h.{i}.attn.c_proj.bias", [Embedding]).when(biased),
        rule("blk.{i}.ffn_norm.weight", "transformer.h.{i}.ln_2.weight", [Embedding]),
        rule("blk.{i}.ffn_norm.bias", "transformer.h.{i}.ln_2.bias", [Embedding]),
    ];
    let dense = [
        rule("blk.{i}.ffn_up.weight", "transformer.h.{i}.mlp.c_fc.weight", [Ff, Embedding]),
        rule("blk.{i}.ffn_up.bias", "transformer.h.{i}.mlp.c_fc.bias", [Ff]).when(biased),
        rule("blk.{i}.ffn_down.weight", "transformer.h.{i}.mlp.c_proj.weight", [Embedding, Ff]),
        rule("blk.{i}.ffn_down.bias", "transformer.h.{i}.mlp.c_proj.bias", [Embedding]).when(biased),
    ];
    rules.extend(dense.map(Rule::in_dense_layers));
    rules.extend(experts().map(Rule::in_expert_layers));
    rules
}

fn experts() -> [Rule; 6] {
    use Dim::*;
    [
        rule(
            "blk.{i}.ffn_gate_inp.weight",
            "transformer.h.{i}.moe.router.w_gate.weight",
            [Experts, Embedding],
        ),
        rule(
            "blk.{i}.ffn_gate_exps.weight",
            "transformer.h.{i}.moe.experts.w_gate",
            [Experts, Ff, Embedding],
        )
        .op(Op::Transpose)
        .when(gated),
        rule("blk.{i}.ffn_up_exps.weight", "transformer.h.{i}.moe.experts.w_fc", [Experts, Ff, Embedding])
            .op(Op::Transpose),
        rule("blk.{i}.ffn_up_exps.bias", "transformer.h.{i}.moe.experts.fc_bias", [Experts, Ff])
            .op(Op::Squeeze)
            .when(biased),
        rule(
            "blk.{i}.ffn_down_exps.weight",
            "transformer.h.{i}.moe.experts.w_proj",
            [Experts, Embedding, Ff],
        )
        .op(Op::Transpose),
        rule("blk.{i}.ffn_down_exps.bias", "transformer.h.{i}.moe.experts.proj_bias", [Experts, Embedding])
            .op(Op::Squeeze)
            .when(biased),
    ]
}
