//! 124M-MoE: GGUF `moe-gpt2`, an architecture of our own (nothing in llama.cpp has learned positions and biased SwiGLU
//! experts together). Gate rows come first in `w1`, up rows second; the head is untied.
//!
//! Keys: `block_count context_length embedding_length feed_forward_length vocab_size`, `attention.head_count
//! attention.head_count_kv attention.layer_norm_epsilon`, `expert_count expert_used_count expert_gating_func` (3: softmax
//! over the chosen) `expert_weights_norm` (false), `feed_forward_activation` (swiglu).

use super::architecture::Architecture;
use super::common::SIZES;
use super::keys::{From, Key};
use super::params::Dim;
use super::rules::{Op, Rule, rule};

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "moe_124m",
    gguf: "moe-gpt2",
    classes: &["MoETransformer"],
    model_types: &["moe_124m"],
    keys: &[
        SIZES,
        &[
            Key("attention.head_count_kv", From::Dim(Dim::Heads)),
            Key("attention.layer_norm_epsilon", From::Number(1e-5)),
            Key("feed_forward_activation", From::Text("swiglu")),
            Key("expert_count", From::Dim(Dim::Experts)),
            Key("expert_used_count", From::Dim(Dim::ExpertsUsed)),
            Key("expert_gating_func", From::Uint(3)), // softmax over the chosen
            Key("expert_weights_norm", From::Bool(false)),
        ],
    ],
    rules,
    computed: &[],
    ignored: &[&["blocks.{i}.attn.mask"]],
    expert_layer: |_, _| true,
};

fn rules() -> Vec<Rule> {
    use Dim::*;
    let (w1, b1) = ("blocks.{i}.moe.experts.{e}.ffn.w1.weight", "blocks.{i}.moe.experts.{e}.ffn.w1.bias");
    let (w2, b2) = ("blocks.{i}.moe.experts.{e}.ffn.w2.weight", "blocks.{i}.moe.experts.{e}.ffn.w2.bias");
    vec![
        rule("token_embd.weight", "token_emb.weight", [Vocab, Embedding]),
        rule("position_embd.weight", "pos_emb.weight", [Context, Embedding]),
        rule("output_norm.weight", "ln_f.weight", [Embedding]),
        rule("output_norm.bias", "ln_f.bias", [Embedding]),
        rule("output.weight", "head.weight", [Vocab, Embedding]),
        rule("blk.{i}.attn_norm.weight", "blocks.{i}.ln1.weight", [Embedding]),
        rule("blk.{i}.attn_norm.bias", "blocks.{i}.ln1.bias", [Embedding]),
        rule("blk.{i}.attn_qkv.weight", "blocks.{i}.attn.qkv.weight", [Qkv, Embedding]),
        rule("blk.{i}.attn_output.weight", "blocks.{i}.attn.out.weight", [Embedding, Embedding]),
        rule("blk.{i}.ffn_norm.weight", "blocks.{i}.ln2.weight", [Embedding]),
        rule("blk.{i}.ffn_norm.bias", "blocks.{i}.ln2.bias", [Embedding]),
        rule("blk.{i}.ffn_gate_inp.weight", "blocks.{i}.moe.router.linear.weight", [Experts, Embedding]),
        rule("blk.{i}.ffn_gate_exps.weight", w1, [Experts, Ff, Embedding]).op(Op::Part(0, 2)),
        rule("blk.{i}.ffn_gate_exps.bias", b1, [Experts, Ff]).op(Op::Part(0, 2)),
        rule("blk.{i}.ffn_up_exps.weight", w1, [Experts, Ff, Embedding]).op(Op::Part(1, 2)),
        rule("blk.{i}.ffn_up_exps.bias", b1, [Experts, Ff]).op(Op::Part(1, 2)),
        rule("blk.{i}.ffn_down_exps.weight", w2, [Experts, Embedding, Ff]),
        rule("blk.{i}.ffn_down_exps.bias", b2, [Experts, Embedding]),
    ]
}
