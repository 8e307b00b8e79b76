//! Tachyon (Acceleron series): GGUF `bailingmoe2`, which computes the same, so that stock llama.cpp runs the file.
//! That architecture wants q, k and v in one tensor, a head of its own, and one shared expert: several are joined.

use super::architecture::Architecture;
use super::bailingmoe2;
use super::common::{EXPERTS, GROUPED, SIZES};
use super::keys::{From, Key};
use super::params::Dim;
use super::rules::{Join, Rule, joined, rule};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "tachyon",
    gguf: "bailingmoe2",
    classes: &["Tachyon", "TachyonConfig"],
    model_types: &["tachyon"],
    keys: &[
        SIZES,
        GROUPED,
        EXPERTS,
        &[
            Key("expert_feed_forward_length", From::Dim(Dim::ExpertFf)),
            Key("", From::Computed(bailingmoe2::shared)),
            Key("expert_gating_func", From::Uint(1)),
            Key("expert_weights_norm", From::Bool(true)),
            Key("expert_weights_scale", From::Number(1.0)),
            Key("leading_dense_block_count", From::Uint(0)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[&["lm_head.weight"]],
    expert_layer: |_, _| true,
};

fn rules() -> Vec<Rule> {
    use Dim::*;
    let qkv =
        ["layers.{i}.attn.q_proj.weight", "layers.{i}.attn.k_proj.weight", "layers.{i}.attn.v_proj.weight"];
    vec![
        rule("token_embd.weight", "embed.weight", [Vocab, Embedding]),
        rule("output_norm.weight", "norm.weight", [Embedding]),
        rule("output.weight", "embed.weight", [Vocab, Embedding]),
        rule("blk.{i}.attn_norm.weight", "layers.{i}.norm1.weight", [Embedding]),
        joined("blk.{i}.attn_qkv.weight", &qkv, Join::Rows, [Qkv, Embedding]),
        rule("blk.{i}.attn_q_norm.weight", "layers.{i}.attn.q_norm.weight", [Head]),
        rule("blk.{i}.attn_k_norm.weight", "layers.{i}.attn.k_norm.weight", [Head]),
        rule("blk.{i}.attn_output.weight", "layers.{i}.attn.o_proj.weight", [Embedding, Q]),
        rule("blk.{i}.ffn_norm.weight", "layers.{i}.norm2.weight", [Embedding]),
        rule("blk.{i}.ffn_gate_inp.weight", "layers.{i}.moe.gate.weight", [Experts, Embedding]),
        rule("blk.{i}.ffn_gate_exps.weight", "layers.{i}.moe.w1", [Experts, ExpertFf, Embedding]),
        rule("blk.{i}.ffn_up_exps.weight", "layers.{i}.moe.w3", [Experts, ExpertFf, Embedding]),
        rule("blk.{i}.ffn_down_exps.weight", "layers.{i}.moe.w2", [Experts, Embedding, ExpertFf]),
        rule(
            "blk.{i}.ffn_gate_shexp.weight",
            "layers.{i}.moe.shared_experts.{s}.w1.weight",
            [SharedFf, Embedding],
        ),
        rule(
            "blk.{i}.ffn_up_shexp.weight",
            "layers.{i}.moe.shared_experts.{s}.w3.weight",
            [SharedFf, Embedding],
        ),
        rule(
            "blk.{i}.ffn_down_shexp.weight",
            "layers.{i}.moe.shared_experts.{s}.w2.weight",
            [Embedding, SharedFf],
        )
        .columns(),
    ]
}
