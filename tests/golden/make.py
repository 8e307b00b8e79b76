"""Writes the fixtures that transformers computes and that no published checkpoint of this size covers.

    python make.py FOLDER      (torch 2.15, transformers 5.23; seed 0, so the same weights every time)

Weights are random, rounded to bfloat16; logits are computed in float32 from the rounded weights.
"""

import pathlib
import sys

import torch
import transformers as t
from safetensors.numpy import save_file

SIZES = dict(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
DEEP_YARN = {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1}
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
GEMMA_ROPE = {
    "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
    "sliding_attention": dict(rope_type="default", rope_theta=1e4),
}
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
CASES = {
    "deepseek2-yarn": (
        "latent attention with a query rank, YaRN with both mscales, a routed scaling factor",
        t.DeepseekV2Config(
            **{**SIZES, "num_key_value_heads": 4},
            q_lora_rank=24,
            kv_lora_rank=32,
            qk_rope_head_dim=16,
            qk_nope_head_dim=32,
            v_head_dim=32,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            n_shared_experts=1,
            first_k_dense_replace=1,
            routed_scaling_factor=2.5,
            topk_method="greedy",
            n_group=1,
            topk_group=1,
            rope_parameters=DEEP_YARN,
        ),
        t.DeepseekV2ForCausalLM,
    ),
    "gemma3-linear": (
        "five sliding layers to one full one, linear scaling in the full one only, norms plus one, tied head",
        t.Gemma3TextConfig(
            **{**SIZES, "num_hidden_layers": 6},
            head_dim=32,
            query_pre_attn_scalar=50,
            sliding_window=16,
            rope_parameters=GEMMA_ROPE,
        ),
        t.Gemma3ForCausalLM,
    ),
    "llama3-biased": (
        "llama3 scaling (the tensor rope_freqs), biases on attention and feed-forward",
        t.LlamaConfig(**SIZES, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
        t.LlamaForCausalLM,
    ),
    "mistral-window": (
        "a sliding window in every layer, heads wider than the embedding's share",
        t.MistralConfig(**SIZES, head_dim=32, sliding_window=16),
        t.MistralForCausalLM,
    ),
    "qwen2-tied": (
        "biases on q, k and v, tied head",
        t.Qwen2Config(**SIZES, tie_word_embeddings=True),
        t.Qwen2ForCausalLM,
    ),
    "qwen2moe-norm": (
        "normalised expert weights, which stock llama.cpp does not compute in this architecture",
        t.Qwen2MoeConfig(**SIZES, **EXPERTS, shared_expert_intermediate_size=64, norm_topk_prob=True),
        t.Qwen2MoeForCausalLM,
    ),
    "qwen3-yarn": (
        "norms per head, YaRN",
        t.Qwen3Config(**SIZES, head_dim=32, rope_parameters=YARN),
        t.Qwen3ForCausalLM,
    ),
    "qwen3moe-mixed": (
        "a dense layer between expert layers",
        t.Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=32, norm_topk_prob=True, mlp_only_layers=[1]),
        t.Qwen3MoeForCausalLM,
    ),
}


def randomise(model):
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        if weight.ndim == 1 and "norm" in name:
            weight.copy_(weight + 0.1 * noise)
        elif weight.ndim == 1:
            weight.copy_(0.1 * noise)
        else:
            weight.copy_(noise * weight.shape[-1] ** -0.5)
        weight.copy_(weight.bfloat16().float())


def main(folder):
    torch.manual_seed(0)
    tokens = torch.randint(3, 320, (1, 48))
    for name, (pins, config, kind) in CASES.items():
        target = folder / name
        model = kind(config).float().eval()
        with torch.no_grad():
            randomise(model)
            cases = {"full_48": tokens, "full_1": tokens[:, :1]}
            expected = {}
            for case, ids in cases.items():
                expected[f"{case}.tokens"] = ids[0].int().numpy()
                expected[f"{case}.logits"] = model(ids).logits[0].float().numpy()
        model.bfloat16().save_pretrained(target)
        save_file(expected, target / "expected.safetensors")
        text = f"Random-weight {kind.__name__}: {pins}. Made by ../make.py with transformers {t.__version__}.\n"
        (target / "README.md").write_text(text)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
