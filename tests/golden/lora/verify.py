#!/usr/bin/env python3
"""The adapters of this folder in numpy (float64): merged weights and logits.

usage: verify.py        needs from PyPI: numpy ml_dtypes gguf; reads ../merge/verify.py
"""
import json, os, re, sys
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
src = open(os.path.join(HERE, "../merge/verify.py")).read().rsplit("\nmain()", 1)[0]
V = {"__file__": HERE + "/../merge/verify.py", "__name__": "verify"}; exec(src, V)


def scale(cfg, module, rank):
    def pattern(table, default):
        for key, value in table.items():
            if re.match(rf"(.*\.)?({key})$", module): return value
        return default
    alpha = pattern(cfg.get("alpha_pattern") or {}, cfg["lora_alpha"])
    return alpha / (rank ** 0.5 if cfg.get("use_rslora") else rank)


def apply(base, folder):
    """base: name -> float64, changed in place."""
    cfg = json.load(open(folder + "/adapter_config.json")); t = {k: v.astype(np.float64) for k, v in V["read"](folder + "/adapter_model.safetensors").items()}
    for key in sorted(t):
        if not key.endswith(".lora_A.weight"): continue
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        A, B = t[key], t[key.replace("lora_A", "lora_B")]
        old = re.fullmatch(r"(.*)\.block_sparse_moe\.(gate|experts\.(\d+)\.(w[123]))", module)
        if old:
            d, p = scale(cfg, module, len(A)) * B @ A, old[1] + ".mlp."
            if old[2] == "gate": base[p + "gate.weight"] += d
            elif old[4] == "w2": base[p + "experts.down_proj"][int(old[3])] += d
            else:
                w = base[p + "experts.gate_up_proj"][int(old[3])]; h = len(w) // 2
                w[slice(0, h) if old[4] == "w1" else slice(h, None)] += d
            continue
        if ".mlp.experts" in module:
            # nested wrappers: which parameter it is, only the shapes tell
            p = module.split(".mlp.experts")[0] + ".mlp.experts."
            hit = [n for n in ("gate_up_proj", "down_proj") if (base[p + n].shape[1], base[p + n].shape[2]) == (B.shape[0], A.shape[1])]
            assert len(hit) == 1, (key, hit); W = base[p + hit[0]]; E = len(W); r = len(A) // E
            for e in range(E): W[e] += scale(cfg, p + hit[0], r) * B[:, e::E] @ A[e * r:(e + 1) * r]
            continue
        W, d = base[module + ".weight"], scale(cfg, module, len(A)) * B @ A
        m = t.get(key.replace("lora_A.weight", "lora_magnitude_vector"))
        if m is None: W += d
        else: W[...] = m[:, None] * (W + d) / np.linalg.norm(W + d, axis=1, keepdims=True)


def apply_gguf(base, path):
    from gguf import GGUFReader
    r = GGUFReader(path); alpha = float(r.fields["adapter.lora.alpha"].contents()); t = {x.name: np.array(x.data, dtype=np.float64) for x in r.tensors}
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate_inp": "mlp.gate"}
    for key in t:
        if not key.endswith(".lora_a"): continue
        _, l, kind, _, _ = key.split("."); A, B = t[key], t[key[:-1] + "b"]; d = alpha / A.shape[-2] * B @ A; p = f"model.layers.{l}."
        if kind in ("attn_q", "attn_k"):  # llama: rows of a head lie (pair, half) there, (half, pair) here
            hd = 16; d = d.reshape(-1, hd // 2, 2, d.shape[1]).transpose(0, 2, 1, 3).reshape(d.shape)
        if kind in names: base[p + names[kind] + ".weight"] += d
        elif kind == "ffn_down_exps": base[p + "mlp.experts.down_proj"] += d
        else:
            w = base[p + "mlp.experts.gate_up_proj"]; h = w.shape[1] // 2
            w[:, slice(0, h) if kind == "ffn_gate_exps" else slice(h, None)] += d


def logits(w, c, ids, seen=None):
    k = c["num_experts_per_tok"]; silu = V["silu"]
    def ffn(l, h):
        p = f"model.layers.{l}.mlp."; s = V["softmax"](h @ w[p + "gate.weight"].T); o = np.zeros_like(h)
        if seen is not None: seen.append(s)
        for t in range(len(h)):
            top = np.argsort(-s[t])[:k]
            for e in top:
                a, b = np.split(w[p + "experts.gate_up_proj"][e], 2)
                o[t] += s[t, e] / s[t, top].sum() * (w[p + "experts.down_proj"][e] @ (silu(a @ h[t]) * (b @ h[t])))
        return o
    return V["forward"](lambda n: w.get(n), c, ids, ffn)[1]


def step_losses(w, c, want):
    """Mean cross entropy over labelled tokens, and the load balance over all layers' real tokens."""
    total, count, seen, k = 0.0, 0, [], c["num_experts_per_tok"]
    for ids, attend, labels in zip(want["step.tokens"], want["step.attend"], want["step.labels"]):
        n = int(attend.sum()); z = logits(w, c, ids[:n], seen); z = z - z.max(-1, keepdims=True); lp = z - np.log(np.exp(z).sum(-1, keepdims=True))
        for t in range(n - 1):
            if labels[t + 1] != -100: total -= lp[t, labels[t + 1]]; count += 1
    s = np.concatenate(seen); E = s.shape[1]; chosen = np.zeros_like(s)
    for row, mark in zip(s, chosen): mark[np.argsort(-row)[:k]] = 1
    return total / count, E * (chosen.mean(0) * s.mean(0)).sum()


def base(folder):
    w = {k: v.astype(np.float64) for k, v in V["read"](folder + "/model.safetensors").items()}; c = json.load(open(folder + "/config.json"))
    for l in range(c["num_hidden_layers"]):
        for old, new in (("block_sparse_moe.gate", "mlp.gate"),):
            if f"model.layers.{l}.{old}.weight" in w: w[f"model.layers.{l}.{new}.weight"] = w.pop(f"model.layers.{l}.{old}.weight")
        p = f"model.layers.{l}.mlp.experts."
        if p + "gate_up_proj" not in w:
            E = c.get("num_local_experts") or c["num_experts"]
            for pre, g, u, d in ((f"model.layers.{l}.block_sparse_moe.experts.", "w1", "w3", "w2"), (p, "gate_proj", "up_proj", "down_proj")):
                if f"{pre}0.{g}.weight" in w:
                    pop = lambda n: [w.pop(f"{pre}{e}.{n}.weight") for e in range(E)]
                    w[p + "gate_up_proj"] = np.concatenate([np.stack(pop(g)), np.stack(pop(u))], 1); w[p + "down_proj"] = np.stack(pop(d))
    return w, c


for name in sorted(os.listdir(HERE)):
    f = f"{HERE}/{name}"
    if not os.path.exists(f + "/expected.safetensors"): continue
    want = V["read"](f + "/expected.safetensors"); w, c = base(f"{HERE}/{name.split('-')[0]}"); w0 = {k: v.copy() for k, v in w.items()}
    big = abs(want["logits"]).max(); d0 = abs(logits(w, c, want["tokens"]) - want["logits_base"]).max() / big
    apply(w, f)
    dw = max([abs(w[k[6:]] - w0[k[6:]] - v).max() for k, v in want.items() if k.startswith("delta.")] or [float("nan")])
    print(f"{name:20} base {d0:.1e}  deltas {dw:.1e}  logits {abs(logits(w, c, want['tokens']) - want['logits']).max() / big:.1e}", end="")
    if "step.ce" in want:
        ce, aux = step_losses(w, c, want); print(f"  loss {abs(ce - want['step.ce'][0]):.1e}  aux {abs(aux - want['step.aux'][0]):.1e}", end="")
    if os.path.exists(f + "/adapter.gguf"):
        apply_gguf(w0, f + "/adapter.gguf"); print(f"  gguf {abs(logits(w0, c, want['tokens']) - want['logits']).max() / big:.1e}", end="")
    print()
