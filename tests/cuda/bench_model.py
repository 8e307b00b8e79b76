#!/usr/bin/env python3
"""Writes a GGUF model of random weights, to measure speed with: bench_model.py OUT --shape NAME --format NAME

Blocks are random bits with sane scales, so a file is made at the speed of the disk, not of a quantizer; what the model
says is nonsense, and the same every time. Needs Python and nothing else.
"""
import argparse
import array
import random
import struct

# architecture, width, layers, heads, heads of keys and values, head width, expert width, experts, used, vocabulary
SHAPES = {
    "olmoe": ("olmoe", 2048, 16, 16, 16, 128, 1024, 64, 8, 50304),
    "qwen3moe": ("qwen3moe", 2048, 24, 32, 4, 128, 768, 64, 8, 50304),
    "qwen3-30b-a3b": ("qwen3moe", 2048, 48, 32, 4, 128, 768, 128, 8, 151936),
    "mixtral": ("llama", 4096, 10, 32, 8, 128, 14336, 4, 2, 32000),
    "tiny": ("qwen3moe", 256, 2, 4, 2, 64, 256, 8, 2, 512),
}
# number in GGUF, weights and bytes of a block, and where its f16 scales stand
FORMATS = {
    "F32": (0, 1, 4, {}),
    "Q4_0": (2, 32, 18, {0: 0.004}),
    "Q8_0": (8, 32, 34, {0: 0.0003}),
    "Q2_K": (10, 256, 84, {80: 0.0025, 82: 0.0033}),
    "Q3_K": (11, 256, 110, {108: 0.0003}),
    "Q4_K": (12, 256, 144, {0: 0.00017, 2: 0.00125}),
    "Q5_K": (13, 256, 176, {0: 0.00008, 2: 0.00125}),
    "Q6_K": (14, 256, 210, {208: 0.00002}),
}
ALIGNMENT = 32
POOL = 32 << 20  # bytes of random blocks, which are written again and again from other places on
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def value(kind, content):
    if kind == STRING:
        return text(content)
    if kind == ARRAY:
        of, items = content
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, item) for item in items)
    return struct.pack("<f" if kind == FLOAT32 else "<I", content)


def metadata(name, shape):
    architecture, width, layers, heads, kv_heads, head, expert, experts, used, vocabulary = shape
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    tokens += [f"\u2581t{i}" for i in range(vocabulary - len(tokens))]
    kinds += [1] * (vocabulary - len(kinds))
    own = {
        "context_length": 8192, "embedding_length": width, "block_count": layers, "feed_forward_length": expert,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "expert_count": experts,
        "expert_used_count": used, "vocab_size": vocabulary, "attention.key_length": head,
        "attention.value_length": head, "rope.dimension_count": head,
    }
    if architecture == "qwen3moe":
        own["expert_feed_forward_length"] = expert
    yield "general.architecture", STRING, architecture
    yield "general.name", STRING, name
    for key, number in own.items():
        yield f"{architecture}.{key}", UINT32, number
    yield f"{architecture}.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5
    yield f"{architecture}.rope.freq_base", FLOAT32, 10000.0
    yield "tokenizer.ggml.model", STRING, "llama"
    yield "tokenizer.ggml.tokens", ARRAY, (STRING, tokens)
    yield "tokenizer.ggml.scores", ARRAY, (FLOAT32, [-float(i) for i in range(vocabulary)])
    yield "tokenizer.ggml.token_type", ARRAY, (UINT32 + 1, kinds)
    yield "tokenizer.ggml.bos_token_id", UINT32, 1
    yield "tokenizer.ggml.eos_token_id", UINT32, 2


def tensors(shape, main):
    """Name, dimensions as GGUF has them (innermost first) and format."""
    architecture, width, layers, heads, kv_heads, head, expert, experts, _, vocabulary = shape
    yield "token_embd.weight", (width, vocabulary), main
    yield "output.weight", (width, vocabulary), main
    yield "output_norm.weight", (width,), "F32"
    for layer in range(layers):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            yield f"{block}{norm}.weight", (width,), "F32"
        yield f"{block}attn_q.weight", (width, heads * head), main
        yield f"{block}attn_k.weight", (width, kv_heads * head), main
        yield f"{block}attn_v.weight", (width, kv_heads * head), main
        yield f"{block}attn_output.weight", (heads * head, width), main
        if architecture != "llama":
            # OLMoE's go over all heads, Qwen3's over each.
            q, k = (heads * head, kv_heads * head) if architecture == "olmoe" else (head, head)
            yield f"{block}attn_q_norm.weight", (q,), "F32"
            yield f"{block}attn_k_norm.weight", (k,), "F32"
        yield f"{block}ffn_gate_inp.weight", (width, experts), "F32"
        yield f"{block}ffn_gate_exps.weight", (width, expert, experts), main
        yield f"{block}ffn_up_exps.weight", (width, expert, experts), main
        yield f"{block}ffn_down_exps.weight", (expert, width, experts), main


def size(dimensions, name):
    _, weights, block_bytes, _ = FORMATS[name]
    assert dimensions[0] % weights == 0
    elements = 1
    for dimension in dimensions:
        elements *= dimension
    return elements // weights * block_bytes


def pool(name):
    _, _, block_bytes, scales = FORMATS[name]
    if name == "F32":  # of routers
        numbers = [random.gauss(0, 0.05) for _ in range(1 << 18)]
        return memoryview(array.array("f", numbers).tobytes()), 4
    blocks = POOL // block_bytes
    content = bytearray(random.randbytes(blocks * block_bytes))
    for place, scale in scales.items():
        low, high = struct.pack("<e", scale)
        content[place::block_bytes] = bytes([low]) * blocks
        content[place + 1::block_bytes] = bytes([high]) * blocks
    return memoryview(bytes(content)), block_bytes


def write_weights(out, count, source):
    content, block_bytes = source
    at = random.randrange(len(content) // block_bytes) * block_bytes
    while count:
        part = content[at:at + count]
        out.write(part)
        count -= len(part)
        at = 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--format", choices=FORMATS, required=True)
    arguments = parser.parse_args()
    random.seed(7)
    shape = SHAPES[arguments.shape]
    keys = list(metadata(f"bench-{arguments.shape}-{arguments.format}", shape))
    all_tensors = list(tensors(shape, arguments.format))
    pools = {name: pool(name) for name in ("F32", arguments.format)}
    with open(arguments.out, "wb") as out:
        out.write(struct.pack("<4sIQQ", b"GGUF", 3, len(all_tensors), len(keys)))
        for key, kind, content in keys:
            out.write(text(key) + struct.pack("<I", kind) + value(kind, content))
        place = 0
        for name, dimensions, form in all_tensors:
            out.write(text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
            out.write(struct.pack("<IQ", FORMATS[form][0], place))
            place += -(-size(dimensions, form) // ALIGNMENT) * ALIGNMENT
        out.write(bytes(-out.tell() % ALIGNMENT))
        for name, dimensions, form in all_tensors:
            count = size(dimensions, form)
            if name.endswith("_norm.weight"):
                out.write(struct.pack("<f", 1.0) * dimensions[0])
            else:
                write_weights(out, count, pools[form])
            out.write(bytes(-count % ALIGNMENT))


main()
