"""Writes the fixtures of classes that transformers has since 5.24 and that no published checkpoint of this size covers.

    python newer.py FOLDER [NAME...]      (torch 2.15, transformers 5.24; fixed seeds, so the same weights every time)

Weights are random, rounded to bfloat16, experts one by one as their publishers have them; logits are computed in float64 from
the rounded weights. The smallest gap between a chosen and a not chosen expert, group or position is printed: it has to be
far above what float32 gets wrong.
"""

import json
import pathlib
import sys

import torch
import transformers as t
from safetensors.torch import save_file

BASE = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=256,
)
YARN = dict(
    rope_type="yarn",
    rope_theta=10000.0,
    factor=8.0,
    original_max_position_embeddings=32,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=1.0,
    mscale_all_dim=1.0,
)
SIGMOID = dict(scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True)
# Seed, class, numbers, and what a publisher's config.json has besides.
CASES = {
    "deepseek32": (
        6,
        "DeepseekV32",
        dict(
            BASE,
            q_lora_rank=32,
            kv_lora_rank=32,
            qk_nope_head_dim=16,
            qk_rope_head_dim=16,
            v_head_dim=24,
            n_routed_experts=16,
            n_shared_experts=1,
            n_group=4,
            topk_group=2,
            num_experts_per_tok=4,
            first_k_dense_replace=1,
            routed_scaling_factor=2.5,
            index_topk=10,
            index_n_heads=12,
            index_head_dim=32,
            rope_parameters=YARN,
        ),
        dict(SIGMOID, model_type="deepseek_v32", tie_word_embeddings=False, rms_norm_eps=1e-6),
    ),
    "dots1": (
        6,
        "Dots1",
        dict(
            BASE,
            num_key_value_heads=2,
            head_dim=32,
            n_routed_experts=8,
            n_shared_experts=2,
            num_experts_per_tok=3,
            first_k_dense_replace=1,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            sliding_window=None,
            rope_parameters=dict(rope_type="default", rope_theta=1e7),
        ),
        dict(SIGMOID, model_type="dots1", n_group=1, topk_group=1, tie_word_embeddings=False, rms_norm_eps=1e-6),
    ),
    "ernie4-5-moe": (
        8,
        "Ernie4_5_Moe",
        dict(
            BASE,
            num_key_value_heads=2,
            moe_num_experts=8,
            moe_k=3,
            moe_num_shared_experts=2,
            moe_layer_start_index=1,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=5e5),
        ),
        dict(model_type="ernie4_5_moe", moe_layer_interval=1, moe_layer_end_index=2, use_bias=False, rms_norm_eps=1e-5),
    ),
}

torch.set_num_threads(1)
torch.cuda.is_current_stream_capturing = lambda: False  # of a torch without CUDA's libraries
gaps = []
topk = torch.topk


def watched(values, k, *rest, **more):
    ordered = torch.sort(values.double(), dim=-1, descending=True).values
    if k < ordered.shape[-1]:
        last, next = ordered[..., k - 1], ordered[..., k]
        gap = ((last - next) / ordered[..., 0].abs().clamp(min=1e-3))[next > -1e30]  # where none is hidden
        gaps.extend(gap.flatten().tolist())
    return topk(values, k, *rest, **more)


torch.topk = torch.Tensor.topk = watched


def random_model(seed, kind, numbers):
    torch.manual_seed(seed)
    config = getattr(t, f"{kind}Config")(**numbers, attn_implementation="eager")
    config._experts_implementation = "eager"
    model = getattr(t, f"{kind}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        buffers = ((name, tensor) for name, tensor in model.named_buffers() if "correction_bias" in name)
        for name, tensor in [*model.named_parameters(), *buffers]:
            noise = torch.randn(tensor.shape)
            if name.endswith("bias"):
                # Where scores are shares of one, so must their bias be.
                noise = noise * (0.02 if "moe_statics" in name else 0.2)
            elif tensor.ndim > 1:
                noise = noise * (0.3 if "embed_tokens" in name else 1.2 * tensor.shape[-1] ** -0.5)
            else:
                noise = 1 + noise * 0.2
            tensor.copy_(noise.bfloat16().float())
    return model


def reference(model, vocabulary):
    model = model.double()
    for length in (48, 8, 1):
        tokens = torch.randint(3, vocabulary, (1, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            logits = model(tokens, use_cache=False).logits[0]
        yield f"full_{length}.tokens", tokens[0].int()
        yield f"full_{length}.logits", logits.float().contiguous()


def published(state, is_tied):
    """The weights as publishers have them: an expert's matrices one by one."""
    for name, tensor in state.items():
        if is_tied and name == "lm_head.weight":
            continue
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                for part, half in zip(("gate", "up"), both.chunk(2)):
                    yield name.replace("gate_up_proj", f"{expert}.{part}_proj.weight"), half.bfloat16().contiguous()
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                yield name.replace("down_proj", f"{expert}.down_proj.weight"), down.bfloat16().contiguous()
        else:
            name = name.replace("gate.moe_statics", "moe_statics")
            yield name, (tensor if "correction_bias" in name else tensor.bfloat16()).contiguous()


for name in sys.argv[2:] or CASES:
    seed, kind, numbers, besides = CASES[name]
    model = random_model(seed, kind, numbers)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gaps.clear()
    expected = dict(reference(model, numbers["vocab_size"]))
    print(f"{name}: smallest gap {min(gaps):.1e}, largest logit {expected['full_48.logits'].abs().max():.2f}")
    out = pathlib.Path(sys.argv[1]) / name
    out.mkdir(exist_ok=True)
    weights = dict(published(state, numbers.get("tie_word_embeddings", False)))
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    save_file(expected, out / "expected.safetensors")
    config = {name: value for name, value in numbers.items() if name != "rope_parameters"}
    rope = dict(numbers["rope_parameters"])
    config["rope_theta"], rope_type = rope.pop("rope_theta"), rope.pop("rope_type")
    if rope_type != "default":
        config["rope_scaling"] = {"type": rope_type, **rope}
    ids = dict(bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16", architectures=[f"{kind}ForCausalLM"])
    config |= besides | ids
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in out.iterdir():
        file.chmod(0o644)
