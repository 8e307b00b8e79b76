"""Writes the fixture `deepseek32`: DeepSeek V3.2 with an indexer that chooses 10 of up to 48 positions.

    python deepseek32.py FOLDER      (torch 2.15, transformers 5.24; a fixed seed, so the same weights every time)

Weights are random, rounded to bfloat16, experts one by one as their publisher has them; logits are computed in float64 from
the rounded weights. The smallest gap between a chosen and a not chosen expert, group or position is printed: it has to be
far above what float32 gets wrong.
"""

import json
import pathlib
import sys

import torch
import transformers as t
from safetensors.torch import save_file

SEED = 6
CONFIG = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=256,
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
    rope_parameters=dict(
        rope_type="yarn",
        rope_theta=10000.0,
        factor=8.0,
        original_max_position_embeddings=32,
        beta_fast=32.0,
        beta_slow=1.0,
        mscale=1.0,
        mscale_all_dim=1.0,
    ),
    attn_implementation="eager",
)

torch.manual_seed(SEED)
torch.set_num_threads(1)
torch.cuda.is_current_stream_capturing = lambda: False  # of a torch without CUDA's libraries
config = t.DeepseekV32Config(**CONFIG)
config._experts_implementation = "eager"
model = t.DeepseekV32ForCausalLM(config).float().eval()
with torch.no_grad():
    tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if "correction_bias" in n)]
    for name, tensor in tensors:
        noise = torch.randn(tensor.shape)
        if tensor.ndim > 1:
            spread = 0.3 if "embed_tokens" in name else 1.2 * tensor.shape[-1] ** -0.5
            tensor.copy_(noise * spread)
        elif name.endswith("bias"):
            tensor.copy_(noise * 0.2)
        else:
            tensor.copy_(1 + noise * 0.2)
        tensor.copy_(tensor.bfloat16().float())

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
state = model.state_dict()
model = model.double()
expected = {}
for length in (48, 8, 1):
    tokens = torch.randint(3, CONFIG["vocab_size"], (1, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0]
    expected[f"full_{length}.tokens"] = tokens[0].int()
    expected[f"full_{length}.logits"] = logits.float().contiguous()
print(f"smallest gap {min(gaps):.1e}, largest logit {expected['full_48.logits'].abs().max():.2f}")

out = pathlib.Path(sys.argv[1]) / "deepseek32"
out.mkdir(exist_ok=True)
weights = {}
for name, tensor in state.items():
    if name.endswith("experts.gate_up_proj"):
        for expert, both in enumerate(tensor):
            for part, half in zip(("gate", "up"), both.chunk(2)):
                weights[name.replace("gate_up_proj", f"{expert}.{part}_proj.weight")] = half.bfloat16().contiguous()
    elif name.endswith("experts.down_proj"):
        for expert, down in enumerate(tensor):
            weights[name.replace("down_proj", f"{expert}.down_proj.weight")] = down.bfloat16().contiguous()
    else:
        weights[name] = (tensor if "correction_bias" in name else tensor.bfloat16()).contiguous()
save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
save_file(expected, out / "expected.safetensors")
kept = {name: value for name, value in CONFIG.items() if name not in ("attn_implementation", "rope_parameters")}
rope = dict(CONFIG["rope_parameters"])
kept["rope_theta"] = rope.pop("rope_theta")
kept["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
kept |= dict(
    architectures=["DeepseekV32ForCausalLM"],
    model_type="deepseek_v32",
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    norm_topk_prob=True,
    tie_word_embeddings=False,
    rms_norm_eps=1e-6,
    bos_token_id=1,
    eos_token_id=2,
    torch_dtype="bfloat16",
)
(out / "config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
