#!/usr/bin/env python3
"""A made-up recording of routing for `moewe experts --replay` and `moewe bench --route`, deterministic by seed.

usage: make.py OUT --experts 128|256 [--layers N] [--tokens N] [--bytes N] [--seed N]      (needs numpy)

An expert's score is the sum of a constant liking, a slow and a fast process that forget (AR(1)), and noise; the eight
highest are chosen. The weights were fitted to hit rates of LRU per layer that others published for real models: 128
experts to Qwen3-30B-A3B and Qwen3-235B-A22B, 256 to Qwen3.6-35B-A3B. `--check` prints what this gives beside them.
"""
import argparse
import json

import numpy as np

USED = 8
# experts: (liking, slow weight, slow memory in tokens, fast weight, fast memory), share of experts that fit: hit rate
FITTED = {
    128: ((0.6, 1.5, 300.0, 1.0, 2.0), {0.11: 0.53, 0.23: 0.76, 0.45: 0.93}),
    256: ((0.6, 1.0, 60.0, 0.5, 8.0), {0.10: 0.56, 0.15: 0.65, 0.26: 0.84, 0.37: 0.89, 0.50: 0.91}),
}


def layer(rng, experts, tokens):
    """Chosen experts with the scores of the 2k best, token by token."""
    (liking, slow_weight, slow_memory, fast_weight, fast_memory), _ = FITTED[experts]
    constant = liking * rng.standard_normal(experts)
    slow, fast = rng.standard_normal(experts), rng.standard_normal(experts)
    keep_slow, keep_fast = np.exp(-1 / slow_memory), np.exp(-1 / fast_memory)
    for _ in range(tokens):
        slow = keep_slow * slow + np.sqrt(1 - keep_slow**2) * rng.standard_normal(experts)
        fast = keep_fast * fast + np.sqrt(1 - keep_fast**2) * rng.standard_normal(experts)
        score = constant + slow_weight * slow + fast_weight * fast + rng.standard_normal(experts)
        best = np.argsort(-score, kind="stable")[: 2 * USED]
        yield best[:USED].tolist(), [[int(e), round(float(score[e]), 4)] for e in best]


def hit_rate(chosen, slots):
    """Of LRU, after the first 200 tokens."""
    held, hits, wanted = {}, 0, 0
    for step, experts in enumerate(chosen):
        if step >= 200:
            wanted += len(experts)
            hits += sum(expert in held for expert in experts)
        held.update((expert, step) for expert in experts)
        for expert in sorted(held, key=held.get)[: max(0, len(held) - slots)]:
            del held[expert]
    return hits / wanted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--experts", type=int, choices=sorted(FITTED), default=128)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of an expert")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    rngs = np.random.SeedSequence(asked.seed).spawn(asked.layers)
    layers = [list(layer(np.random.default_rng(rng), asked.experts, asked.tokens)) for rng in rngs]
    if asked.check:
        for share, published in FITTED[asked.experts][1].items():
            rates = [hit_rate([chosen for chosen, _ in one], int(asked.experts * share)) for one in layers]
            print(f"{share:.2f} of the experts fit: {np.mean(rates):.3f}, published {published}")
    heading = [{"layer": i, "expert_count": asked.experts, "expert_bytes": asked.bytes} for i in range(asked.layers)]
    with open(asked.out, "w", encoding="utf-8") as out:
        out.write(json.dumps({"version": 2, "layers": heading}) + "\n")
        for token in zip(*layers):
            line = {"chosen": [chosen for chosen, _ in token], "best": [best for _, best in token]}
            out.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
