#!/usr/bin/env python3
"""Computes every case of this folder from dense/ alone, in numpy (float64).

usage: verify.py        needs from PyPI: numpy pyyaml safetensors ml_dtypes tokenizers. Prints the largest deviations.
"""
import hashlib, json, os
import ml_dtypes, numpy as np, yaml
from tokenizers import Tokenizer
HERE = os.path.dirname(os.path.abspath(__file__))


def read(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little"); head = json.loads(f.read(n)); data = f.read()
    kinds = {"BF16": ml_dtypes.bfloat16, "F32": np.float32, "F16": np.float16, "I32": np.int32}
    return {k: np.frombuffer(data[v["data_offsets"][0]:v["data_offsets"][1]], kinds[v["dtype"]]).reshape(v["shape"]) for k, v in head.items() if k != "__metadata__"}


class Dense:
    def __init__(self, d):
        self.w, self.c = read(d + "/model.safetensors"), json.load(open(d + "/config.json"))
        self.tok = Tokenizer.from_file(d + "/tokenizer.json")
        self.bos = json.load(open(d + "/tokenizer_config.json")).get("bos_token") or ""
    def f(self, n): return self.w[n].astype(np.float64)


def rms(x, g, eps): return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * g
def silu(x): return x / (1 + np.exp(-x))
def softmax(x): e = np.exp(x - x.max(-1, keepdims=True)); return e / e.sum(-1, keepdims=True)


def forward(get, c, ids, ffn):
    """Residual stream before each layer, and the logits. get(name) -> float64 or None."""
    H, K, d = c["num_attention_heads"], c["num_key_value_heads"], c["hidden_size"]
    hd = c.get("head_dim") or d // H; T = len(ids); eps = c["rms_norm_eps"]
    rp = c.get("rope_parameters") or {}
    inv = rp.get("rope_theta", c.get("rope_theta")) ** (-np.arange(0, hd, 2) / hd)
    ang = np.arange(T)[:, None] * inv; cos, sin = np.cos(np.hstack([ang, ang])), np.sin(np.hstack([ang, ang]))
    rot = lambda x: x * cos + np.concatenate([-x[..., hd // 2:], x[..., :hd // 2]], -1) * sin
    x = get("model.embed_tokens.weight")[ids]; streams = []
    for l in range(c["num_hidden_layers"]):
        streams.append(x); p = f"model.layers.{l}."; h = rms(x, get(p + "input_layernorm.weight"), eps)
        def proj(n, heads):
            y = h @ get(p + f"self_attn.{n}_proj.weight").T; b = get(p + f"self_attn.{n}_proj.bias")
            return (y if b is None else y + b).reshape(T, heads, hd).transpose(1, 0, 2)
        q, k, v = proj("q", H), proj("k", K), proj("v", K)
        if get(p + "self_attn.q_norm.weight") is not None:
            q, k = rms(q, get(p + "self_attn.q_norm.weight"), eps), rms(k, get(p + "self_attn.k_norm.weight"), eps)
        q, k, v = rot(q), np.repeat(rot(k), H // K, 0), np.repeat(v, H // K, 0)
        s = q @ k.transpose(0, 2, 1) / np.sqrt(hd); s[:, np.triu(np.ones((T, T), bool), 1)] = -np.inf
        x = x + (softmax(s) @ v).transpose(1, 0, 2).reshape(T, H * hd) @ get(p + "self_attn.o_proj.weight").T
        x = x + ffn(l, rms(x, get(p + "post_attention_layernorm.weight"), eps))
    head = get("lm_head.weight"); head = get("model.embed_tokens.weight") if head is None else head
    return np.stack(streams), rms(x, get("model.norm.weight"), eps) @ head.T


def dense_streams(m, ids, pads=0):
    """pads: so many start tokens before, which nothing sees and which see nothing (mergekit's hidden_avg counts them)."""
    get = lambda n: m.f(n) if n in m.w else None
    def ffn(l, h):
        g, u, d = (m.f(f"model.layers.{l}.mlp.{n}_proj.weight") for n in ("gate", "up", "down"))
        return (silu(h @ g.T) * (h @ u.T)) @ d.T
    real = forward(get, m.c, ids, ffn)[0]
    if not pads: return real
    x = m.f("model.embed_tokens.weight")[[1]]; alone = []
    for l in range(len(real)):
        alone.append(x); x = x + ffn(l, rms(x, m.f(f"model.layers.{l}.post_attention_layernorm.weight"), m.c["rms_norm_eps"]))
    return np.concatenate([np.repeat(np.stack(alone), pads, 1), real], 1)


def unit(x): return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-8)


def vector(m, prompts, mode, known):
    ids = [known[p] for p in prompts]
    if mode == "cheap_embed":
        e = m.f("model.embed_tokens.weight"); v = unit(sum(e[i].sum(0) for i in ids))
        return np.repeat(v[None], m.c["num_hidden_layers"], 0)
    longest = max(map(len, ids))
    s = [dense_streams(m, i, longest - len(i) if mode == "hidden_avg" else 0) for i in ids]
    return np.mean([x.mean(1) if mode == "hidden_avg" else x[:, -1] for x in s], 0)


def gates(m, experts, mode, known):
    """(layers, experts, width)"""
    out = []
    for e in experts:
        v = vector(m, e["positive_prompts"], mode, known)
        if e.get("negative_prompts"): v = v - vector(m, e["negative_prompts"], mode, known)
        out.append(unit(v))
    return np.stack(out, 1)


def cast(x, dtype): return x if x.dtype == dtype else x.astype(np.float32).astype(dtype)


def merged(case, y):
    path = lambda p: os.path.normpath(os.path.join(HERE, case, p))
    base = Dense(path(y["base_model"])); L = base.c["num_hidden_layers"]
    dt = {"bfloat16": ml_dtypes.bfloat16, "float32": np.dtype("float32")}[y.get("dtype") or base.c["dtype"]]
    w = {n: cast(t, dt) for n, t in base.w.items() if ".mlp." not in n}
    def mlp(e, l, n):
        t = Dense(path(e["source_model"])).w[f"model.layers.{l}.mlp.{n}_proj.weight"]
        if n == "down" and e.get("residual_scale") is not None: t = (t.astype(np.float32) * np.float32(e["residual_scale"])).astype(t.dtype)
        return cast(t, dt)
    fused = case.startswith("mixtral") or case == "qwen3"
    for l in range(L):
        p = f"model.layers.{l}.mlp."
        if fused:
            w[p + "experts.gate_up_proj"] = np.stack([np.concatenate([mlp(e, l, "gate"), mlp(e, l, "up")]) for e in y["experts"]])
            w[p + "experts.down_proj"] = np.stack([mlp(e, l, "down") for e in y["experts"]])
        else:
            for n in ("gate", "up", "down"):
                for i, e in enumerate(y["experts"]): w[p + f"experts.{i}.{n}_proj.weight"] = mlp(e, l, n)
                shared = "shared_experts" if case.startswith("deepseek") else "shared_expert"
                w[p + f"{shared}.{n}_proj.weight"] = mlp(y["shared_experts"][0], l, n)
        if case.startswith("qwen") and not fused:
            for n, heads in (("q", base.c["num_attention_heads"]), ("k", base.c["num_key_value_heads"]), ("v", base.c["num_key_value_heads"])):
                w.setdefault(f"model.layers.{l}.self_attn.{n}_proj.bias", np.zeros(heads * base.c["hidden_size"] // base.c["num_attention_heads"], dt))
    return base, w, fused


def main():
    print(f"{'case':20} {'tensors':>8} {'gates f32':>10} {'gates as shipped':>17} {'cosine':>8} {'logits':>9}")
    for case in sorted(os.listdir(HERE)):
        if not os.path.exists(f"{HERE}/{case}/merge.yaml"): continue
        y = yaml.safe_load(open(f"{HERE}/{case}/merge.yaml")); want = read(f"{HERE}/{case}/expected.safetensors")
        base, w, fused = merged(case, y); hashes = json.load(open(f"{HERE}/{case}/hashes.json"))
        bad = [n for n in set(w) | set(hashes) if n not in w or n not in hashes or hashlib.sha256(w[n].tobytes()).hexdigest() != hashes[n]["sha256"]]
        sets = list(y["experts"]) + [e for e in y.get("shared_experts") or [] if e.get("positive_prompts")]
        d32 = dbf = cos = float("nan"); L = base.c["num_hidden_layers"]; E = len(y["experts"])
        name = lambda l, s: f"model.layers.{l}.mlp.{'shared_expert_gate' if s else 'gate'}.weight"
        if "random" not in y["gate_mode"]:
            known = json.load(open(f"{HERE}/{case}/prompts.json"))
            if "qwen2" not in case: assert all(base.tok.encode(base.bos + p, add_special_tokens=False).ids == i for p, i in known.items())  # transformers splits by qwen2's own pattern
            g = gates(base, sets, y["gate_mode"], known)
            def dev(prefix): return max(abs(want[prefix + name(l, s)].astype(float) - (g[l, E:] if s else g[l, :E])).max() for l in range(L) for s in (0, 1) if prefix + name(l, s) in want)
            dbf = dev("merged."); d32 = dev("f32.") if any(k.startswith("f32.") for k in want) else dbf
            cos = min(float((unit(want["merged." + name(l, 0)].astype(float)) * g[l, :E]).sum(-1).min()) for l in range(L))
        k = y.get("experts_per_token", 2); dl = float("nan")
        if "logits" in want:
            for n, t in want.items():
                if n.startswith("merged."): w[n[7:]] = t
            f = {n: t.astype(np.float64) for n, t in w.items()}
            def ffn(l, h):
                p = f"model.layers.{l}.mlp."; s = softmax(h @ f[p + "gate.weight"].T); o = np.zeros_like(h)
                for t in range(len(h)):
                    top = np.argsort(-s[t])[:k]
                    for e in top:
                        if fused: gu = f[p + "experts.gate_up_proj"][e]; a, b = np.split(gu, 2); dn = f[p + "experts.down_proj"][e]
                        else: a, b, dn = (f[p + f"experts.{e}.{n}_proj.weight"] for n in ("gate", "up", "down"))
                        o[t] += s[t, e] / s[t, top].sum() * (dn @ (silu(a @ h[t]) * (b @ h[t])))
                if not fused:
                    a, b, dn = (f[p + f"shared_expert.{n}_proj.weight"] for n in ("gate", "up", "down"))
                    o += 1 / (1 + np.exp(-h @ f[p + "shared_expert_gate.weight"].T)) * ((silu(h @ a.T) * (h @ b.T)) @ dn.T)
                return o
            got = forward(lambda n: f.get(n), base.c, want["tokens"], ffn)[1]; dl = abs(got - want["logits"]).max() / abs(want["logits"]).max()
        print(f"{case:20} {'equal' if not bad else str(len(bad)) + ' BAD':>8} {d32:10.2e} {dbf:17.2e} {cos:8.5f} {dl:9.1e}", bad[:2] if bad else "")


if __name__ == "__main__":
    main()
