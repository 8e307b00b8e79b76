#!/usr/bin/env python3
"""Gates that mergekit does not make, in numpy (float64) from dense/ alone; see README.md.

usage: routers.py         needs from PyPI: numpy pyyaml safetensors ml_dtypes tokenizers. Writes routers/expected.safetensors:
router.L, average.L, text.L (4, 64); scales (layers,); loads: [own first, own chosen] over all layers, then the share of
first choices (experts,), both with the gates of text.L times its scale.
"""
import os, numpy as np, yaml
import verify as v
from safetensors.numpy import save_file
HERE = os.path.dirname(os.path.abspath(__file__)); PIECE, DAMPING = 128, 0.05


def seen(m, ids):
    """Residual stream before each layer and router input in it, (layers, tokens, width) both."""
    inputs = []
    def ffn(l, h):
        inputs.append(h)
        g, u, d = (m.f(f"model.layers.{l}.mlp.{n}_proj.weight") for n in ("gate", "up", "down"))
        return (v.silu(h @ g.T) * (h @ u.T)) @ d.T
    streams = v.forward(lambda n: m.f(n) if n in m.w else None, m.c, ids, ffn)[0]
    return streams, np.stack(inputs)


def main():
    m = v.Dense(f"{HERE}/dense/llama-base"); out = {}; layers = m.c["num_hidden_layers"]
    read = lambda n: yaml.safe_load(open(f"{HERE}/routers/{n}.yaml"))["experts"]
    encode = lambda t: m.tok.encode(t, add_special_tokens=False).ids

    def mean(prompts, which):
        all_ = [seen(m, encode(m.bos + p)) for p in prompts]
        if which == "router": return np.concatenate([r[:, 1:] for _, r in all_], 1).mean(1)
        return np.mean([s.mean(1) for s, _ in all_], 0)
    for which in ("router", "average"):
        rows = []
        for e in read(which):
            g = mean(e["positive_prompts"], which)
            if e.get("negative_prompts"): g = g - mean(e["negative_prompts"], which)
            rows.append(v.unit(g))
        for l in range(layers): out[f"{which}.{l}"] = np.stack([r[l] for r in rows]).astype(np.float32)

    pieces = []
    for e in read("text"):
        ids = sum(([encode(open(f"{HERE}/routers/{t}").read())] for t in e["texts"]), [])
        n = PIECE - 1
        pieces.append([t[i:i + n] for t in ids for i in range(0, len(t) - n + 1, n)])
    count = min(map(len, pieces)); E = len(pieces); print("pieces", count)
    fit, held = [], []
    for e, own in enumerate(pieces):
        for i, ids in enumerate(own[:count]):
            (held if i % 10 == 1 else fit).append((e, seen(m, [1] + ids)[1][:, 1:]))
    gather = lambda parts, l: (np.concatenate([r[l] for _, r in parts]), np.concatenate([np.full(r.shape[1], e) for e, r in parts]))
    scales, first, own, chosen = [], np.zeros(E), [], []
    for l in range(layers):
        x, y = gather(fit, l); h, z = gather(held, l)
        a = x.T @ x; a += DAMPING * np.trace(a) / len(a) * np.eye(len(a))
        w = np.linalg.solve(a, x.T @ (np.eye(E)[y] - 1 / E)).T
        s = h @ w.T
        def loss(k): t = k * (s - s.max(1, keepdims=True)); return (np.log(np.exp(t).sum(1)) - t[np.arange(len(z)), z]).sum()
        grid = np.exp(np.linspace(np.log(1e-2), np.log(1e3), 200001)[::20]); k = min(grid, key=loss)
        order = np.argsort(-s, 1)
        first += np.bincount(order[:, 0], minlength=E) / len(z) / layers
        own.append((order[:, 0] == z).mean()); chosen.append((order[:, :2] == z[:, None]).any(1).mean())
        out[f"text.{l}"] = np.ascontiguousarray(w, np.float32); scales.append(k)
    out["scales"] = np.array(scales, np.float32)
    out["loads"] = np.array([np.mean(own), np.mean(chosen)], np.float32); out["first"] = first.astype(np.float32)
    save_file(out, f"{HERE}/routers/expected.safetensors")
    print("scales", scales, "own", np.mean(own), "chosen", np.mean(chosen), "first", first)


main()
