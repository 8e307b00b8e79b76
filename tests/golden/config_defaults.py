"""Writes what transformers' configuration classes have for keys that a config.json leaves out.

    python config_defaults.py > ../../convert/src/hf/config_defaults.json      (transformers 5.24; needs no torch)

`defaults` are those of the fields, before a class computes with them; `computed` is what an object without arguments
then has. `nullable` fields may be null. The founding systems have no class in transformers: theirs is `ours`, written
down from their code.
"""

import dataclasses
import json
import logging
import math
import types
import typing

import transformers as t

logging.disable(logging.CRITICAL)

CLASSES = {
    "deepseek_v2": t.DeepseekV2Config,
    "deepseek_v3": t.DeepseekV3Config,
    "deepseek_v32": t.DeepseekV32Config,
    "deepseek_v4": t.DeepseekV4Config,
    "kimi_k2": t.DeepseekV3Config,  # its publisher's code is a copy of that class
    "dots1": t.Dots1Config,
    "ernie4_5_moe": t.Ernie4_5_MoeConfig,
    "gemma3": t.Gemma3Config,
    "gemma3_text": t.Gemma3TextConfig,
    "gemma4": t.Gemma4Config,
    "gemma4_text": t.Gemma4TextConfig,
    "glm4_moe": t.Glm4MoeConfig,
    "glm4_moe_lite": t.Glm4MoeLiteConfig,
    "glm_moe_dsa": t.GlmMoeDsaConfig,
    "gpt_oss": t.GptOssConfig,
    "granitemoe": t.GraniteMoeConfig,
    "granitemoehybrid": t.GraniteMoeHybridConfig,
    "granitemoeshared": t.GraniteMoeSharedConfig,
    "kimi_k25": t.Kimi_K25Config,
    "lfm2_moe": t.Lfm2MoeConfig,
    "llama": t.LlamaConfig,
    "minimax_m2": t.MiniMaxM2Config,
    "mistral": t.MistralConfig,
    "mixtral": t.MixtralConfig,
    "nemotron_h": t.NemotronHConfig,
    "olmoe": t.OlmoeConfig,
    "qwen2": t.Qwen2Config,
    "qwen2_moe": t.Qwen2MoeConfig,
    "qwen3": t.Qwen3Config,
    "qwen3_5": t.Qwen3_5Config,
    "qwen3_5_moe": t.Qwen3_5MoeConfig,
    "qwen3_5_moe_text": t.Qwen3_5MoeTextConfig,
    "qwen3_5_text": t.Qwen3_5TextConfig,
    "qwen3_moe": t.Qwen3MoeConfig,
    "qwen3_next": t.Qwen3NextConfig,
}
COMPUTED = ["num_key_value_heads", "head_dim", "rope_parameters", "layer_types", "sliding_window"]

# Ling's publisher has had several sets of defaults in code of its own: what a configuration leaves out is missing.
LING = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
max_position_embeddings num_experts num_shared_experts num_experts_per_tok n_group topk_group moe_intermediate_size
first_k_dense_replace routed_scaling_factor rms_norm_eps hidden_act rope_theta rope_scaling partial_rotary_factor rotary_dim
use_qk_norm use_qkv_bias use_bias norm_head norm_topk_prob score_function moe_router_enable_expert_bias
tie_word_embeddings sliding_window use_sliding_window""".split()
OURS = {
    "bailing_moe_v2": dict.fromkeys(LING),
    "moe_gpt": dict(
        vocab_size=128256,
        n_positions=2048,
        n_embd=768,
        n_layer=12,
        n_head=12,
        n_experts=8,
        n_experts_active=2,
        moe_layer_frequency=2,
        capacity_factor=1.25,
        eval_capacity_factor=2.0,
        use_noisy_gating=True,
        aux_loss_alpha=0.01,
        router_z_loss_alpha=0.001,
        bias=False,
        dropout=0.1,
        activation_function="gelu",
        initializer_range=0.1,
        layer_norm_epsilon=1e-5,
        use_cache=True,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    ),
    "tachyon": dict(
        vocab_size=50258,
        d_model=2048,
        n_layers=24,
        n_heads=16,
        n_kv_heads=4,
        d_ff=5632,
        d_shared_ff=2816,
        n_routed_experts=8,
        n_shared_experts=1,
        top_k_experts=2,
        max_seq_len=2048,
        dropout=0.0,
        rope_theta=10000.0,
        z_loss_coef=0.001,
        balance_loss_coef=0.01,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    ),
    "moe_124m": dict(
        vocab_size=50257,
        dim=384,
        n_layers=11,
        n_heads=8,
        ff_dim=1536,
        n_experts=4,
        context_len=1024,
        top_k=2,
        z_loss_coef=0.001,
        balance_loss_coef=0.01,
        tie_word_embeddings=False,
    ),
}


def nullable(hint):
    return hint is type(None) or any(map(nullable, typing.get_args(hint)))


def in_json(value):
    """JSON has no infinity; transformers writes it as a text, too."""
    if isinstance(value, (list, tuple)):
        return [in_json(item) for item in value]
    return "Infinity" if value == math.inf else value


def written(kind):
    base = {field.name for field in dataclasses.fields(t.PreTrainedConfig)}
    fields = [field for field in dataclasses.fields(kind) if field.name not in base]
    hints = typing.get_type_hints(kind, localns=dict(torch=types.SimpleNamespace(dtype=str)))
    made = kind()
    made.allow_global_per_layer_attribute_access = True  # of Gemma 4, whose layers differ
    return dict(
        defaults={field.name: in_json(field.default) for field in fields},
        nullable=sorted(field.name for field in fields if nullable(hints.get(field.name))),
        aliases=dict(kind.attribute_map),
        computed={name: getattr(made, name) for name in COMPUTED if hasattr(made, name)},
    )


common = {field.name for field in dataclasses.fields(t.PreTrainedConfig)}
generation = set(t.GenerationConfig._get_default_generation_params())
print(
    json.dumps(
        dict(
            transformers=t.__version__,
            classes={name: written(kind) for name, kind in CLASSES.items()},
            ours={name: dict(defaults=defaults) for name, defaults in OURS.items()},
            common=sorted(common),
            generation=sorted(generation),
        ),
        indent=1,
        sort_keys=True,
    )
)
