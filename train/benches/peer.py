#!/usr/bin/env python3
"""The training step of `moewe train bench` in PyTorch: the same Tachyon-shaped model, grouped experts, fused AdamW.

usage: peer.py CONFIG.json [--batch 8] [--context 256] [--steps 5] [--threads 2]; needs torch.
"""

import argparse, json, time
import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("config")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--context", type=int, default=256)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
c = json.load(open(args.config))
d, heads, kv = c["d_model"], c["n_heads"], c["n_kv_heads"]
size = d // heads


def weight(*shape):
    return torch.nn.Parameter(torch.randn(*shape) * 0.02)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        e, f, s = c["n_routed_experts"], c["d_ff"], c["d_shared_ff"] * c["n_shared_experts"]
        self.norm1, self.norm2 = torch.nn.RMSNorm(d, 1e-6), torch.nn.RMSNorm(d, 1e-6)
        self.q_norm, self.k_norm = torch.nn.RMSNorm(size, 1e-6), torch.nn.RMSNorm(size, 1e-6)
        self.qkv, self.o = weight((heads + 2 * kv) * size, d), weight(d, heads * size)
        self.router, self.up, self.down = weight(e, d), weight(e, 2 * f, d), weight(e, d, f)
        self.shared_up, self.shared_down = weight(2 * s, d), weight(d, s)

    def attention(self, x, cos, sin):
        b, t, _ = x.shape
        q, k, v = (x @ self.qkv.t()).view(b, t, -1, size).transpose(1, 2).split([heads, kv, kv], 1)
        rotate = lambda h: torch.cat([h[..., : size // 2] * cos - h[..., size // 2 :] * sin,
                                      h[..., : size // 2] * sin + h[..., size // 2 :] * cos], -1)
        q, k = rotate(self.q_norm(q)), rotate(self.k_norm(k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return y.transpose(1, 2).reshape(b, t, -1) @ self.o.t()

    def ffn(self, x, up, down):
        gate, value = (x @ up.t()).chunk(2, -1)
        return (F.silu(gate) * value) @ down.t()

    def experts(self, x):
        scores = x @ self.router.t()
        shares = scores.softmax(-1)
        weights, chosen = shares.topk(c["top_k_experts"], -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y, fractions = self.ffn(x, self.shared_up, self.shared_down), []
        for e in range(c["n_routed_experts"]):
            rows, choice = (chosen == e).nonzero(as_tuple=True)
            fractions.append(rows.numel() / chosen.numel())
            own = self.ffn(x[rows], self.up[e], self.down[e]) * weights[rows, choice].unsqueeze(-1)
            y = y.index_add(0, rows, own)
        balance = c["n_routed_experts"] * (shares.mean(0) * torch.tensor(fractions)).sum()
        return y, c["balance_loss_coef"] * balance + c["z_loss_coef"] * scores.logsumexp(-1).square().mean()

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        y, loss = self.experts(self.norm2(x).reshape(-1, d))
        return x + y.view_as(x), loss


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = weight(c["vocab_size"], d), torch.nn.RMSNorm(d, 1e-6)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(c["n_layers"]))

    def forward(self, ids):
        angles = torch.arange(ids.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
        x, aux = self.embed[ids], 0.0
        for layer in self.layers:
            x, loss = layer(x, angles.cos(), angles.sin())
            aux = aux + loss
        logits = self.norm(x)[:, :-1].reshape(-1, d) @ self.embed.t()
        return F.cross_entropy(logits, ids[:, 1:].reshape(-1)) + aux


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
ids = torch.randint(c["vocab_size"], (args.batch, args.context))
seconds = []
for step in range(args.steps + 1):
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = model(ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    seconds.append(time.perf_counter() - start)
median = sorted(seconds[1:])[args.steps // 2]
print(f"tokens/s    {args.batch * args.context / median:.0f}\nstep        {median:.3f} s")
