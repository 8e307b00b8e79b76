"""Writes one training step each of models whose code is transformers' own: losses, every gradient, six AdamW steps.

    python make.py FOLDER      (torch 2.15, transformers 5.24; seeds are fixed, so the same numbers every time)

Everything is float32 on the CPU. The loss is the mean cross entropy plus transformers' load balance (over all layers
together) times `router_aux_loss_coef`. Names are those of checkpoints: experts one by one.
"""

import json
import pathlib
import sys

import torch
import transformers as t
from safetensors.torch import save_file

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
EXPERTS = dict(num_experts_per_tok=2, router_aux_loss_coef=0.1)
CASES = {
    "llama": (t.LlamaForCausalLM, t.LlamaConfig(**SIZES)),
    "mistral": (t.MistralForCausalLM, t.MistralConfig(**SIZES, head_dim=12, sliding_window=None)),
    "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**{**SIZES, "tie_word_embeddings": True}, head_dim=12)),
    "qwen3_moe": (
        t.Qwen3MoeForCausalLM,
        t.Qwen3MoeConfig(
            **{**SIZES, "num_hidden_layers": 3},
            **EXPERTS,
            head_dim=12,
            moe_intermediate_size=12,
            num_experts=6,
            norm_topk_prob=True,
            mlp_only_layers=[1],
        ),
    ),
    "olmoe": (t.OlmoeForCausalLM, t.OlmoeConfig(**{**SIZES, "intermediate_size": 16}, **EXPERTS, num_experts=5)),
    "mixtral": (t.MixtralForCausalLM, t.MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4)),
}
OPTIMIZER = dict(optimizer="AdamW", lr=3e-4, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1, clip=1.0, steps=6)
ROWS, LENGTH = 2, 32


def pieces(kind, tensors):
    """The tensors under the names of checkpoints."""
    old = kind == "mixtral"
    names = dict(gate="w1", up="w3", down="w2") if old else {n: f"{n}_proj" for n in ("gate", "up", "down")}
    out = {}
    for name, tensor in tensors.items():
        name = name.replace(".mlp.", ".block_sparse_moe.") if old else name
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            out[name] = tensor.clone()
            continue
        prefix = name.rsplit(".", 1)[0]
        for e, own in enumerate(tensor):
            parts = dict(down=own) if name.endswith("down_proj") else dict(zip(("gate", "up"), own.chunk(2)))
            for part, values in parts.items():
                out[f"{prefix}.{e}.{names[part]}.weight"] = values.clone()
    return out


def main(folder):
    for number, (name, (kind, config)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(number)
        model = kind(config).float().eval()
        with torch.no_grad():
            for own, weight in model.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(1 + 0.1 * noise if weight.ndim == 1 else noise * weight.shape[-1] ** -0.5)
        before = pieces(name, dict(model.named_parameters()))
        tokens = torch.randint(0, config.vocab_size, (ROWS, LENGTH), generator=generator)
        expected = {"tokens": tokens.int()}
        decay = [p for n, p in model.named_parameters() if "norm" not in n]
        other = [p for n, p in model.named_parameters() if "norm" in n]
        groups = [dict(params=decay, weight_decay=OPTIMIZER["weight_decay"]), dict(params=other, weight_decay=0.0)]
        optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER["lr"], betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"])
        has_experts = "router_aux_loss_coef" in config.to_dict()
        losses = []
        for step in range(OPTIMIZER["steps"]):
            optimizer.zero_grad()
            result = model(tokens, labels=tokens, **(dict(output_router_logits=True) if has_experts else {}))
            result.loss.backward()
            losses.append(result.loss.item())
            gradients = {n: p.grad for n, p in model.named_parameters()}
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            if step == 0:
                expected |= {f"grad.{n}": g for n, g in pieces(name, gradients).items()}
                aux = result.aux_loss.detach() if has_experts else torch.zeros(())
                scale = config.router_aux_loss_coef if has_experts else 0.0
                expected["grad_norm"] = norm.reshape(1)
                expected["step0.loss"] = result.loss.detach().reshape(1)
                expected["step0.load_balance"] = aux.reshape(1)
                expected["step0.cross_entropy"] = (result.loss.detach() - scale * aux).reshape(1)
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip"])
            optimizer.step()
        expected["losses"] = torch.tensor(losses, dtype=torch.float64)
        expected |= {f"after.{n}": p for n, p in pieces(name, dict(model.named_parameters())).items()}
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        contiguous = lambda all: {n: p.detach().contiguous() for n, p in all.items() if n not in tied}
        save_file(contiguous(before), target / "model.safetensors")
        save_file(contiguous(expected), target / "expected.safetensors")
        config.architectures = [kind.__name__]
        (target / "config.json").write_text(json.dumps(config.to_dict() | {"dtype": "float32"}, indent=1) + "\n")
        (target / "optimizer.json").write_text(json.dumps(OPTIMIZER, indent=1) + "\n")
        text = f"One training step and six of a {kind.__name__} by transformers {t.__version__}, made by ../make.py."
        (target / "README.md").write_text(text + " Names as in ../german-moe.\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
