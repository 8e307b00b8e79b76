"""Makes the golden bytes of the block formats with the PyPI package `gguf`; see README.md beside this file."""

import pathlib
import warnings

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

HERE = pathlib.Path(__file__).parent
# Format -> blocks, bytes per block, byte offsets of its F16 fields.
FORMATS = {
    "F32": (512, 4, []),
    "F16": (2048, 2, [0]),
    "BF16": (1024, 2, []),
    "Q4_0": (40, 18, [0]),
    "Q4_1": (40, 20, [0, 2]),
    "Q5_0": (40, 22, [0]),
    "Q5_1": (40, 24, [0, 2]),
    "Q8_0": (40, 34, [0]),
    "Q2_K": (16, 84, [80, 82]),
    "Q3_K": (16, 110, [108]),
    "Q4_K": (16, 144, [0, 2]),
    "Q5_K": (16, 176, [0, 2]),
    "Q6_K": (16, 210, [208]),
    "IQ4_NL": (40, 18, [0]),
    "IQ4_XS": (16, 136, [0]),
    "MXFP4": (40, 17, []),
}
WRITTEN = ["F32", "F16", "BF16", "Q4_0", "Q8_0"]
# Zeros, the smallest and largest subnormal and normal numbers, infinities, quiet and signalling NaN.
SPECIAL_F16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFD01]


def blocks(name: str, random: np.random.Generator) -> np.ndarray:
    """Random bytes; about half of the blocks get ordinary scales, a quarter special ones, the rest stay random."""
    count, size, fields = FORMATS[name]
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    for field in fields:
        for i in range(count):
            if i % 4 < 2:
                value = np.float16(random.normal() * 0.01)
            elif i % 4 == 2:
                value = np.uint16(random.choice(SPECIAL_F16)).view(np.float16)
            else:
                continue
            data[i, field : field + 2] = np.frombuffer(value.tobytes(), np.uint8)
    if name == "F16":
        data[: len(SPECIAL_F16)] = np.array(SPECIAL_F16, np.uint16).view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        data[:6, 0] = [0, 1, 2, 127, 254, 255]
    return data


def weights(random: np.random.Generator) -> np.ndarray:
    """Finite weights, 32 per row: usual ones, heavy tails, ties, zeros, subnormals and large numbers."""
    rows = [random.normal(0, 0.02, 32) for _ in range(16)]
    rows += [random.standard_t(2, 32) * 0.02 for _ in range(16)]
    # The scale is 1, so that every second weight lies halfway between two codes.
    rows += [np.r_[127, (np.arange(31) - 15) / 2], np.r_[-8, (np.arange(31) - 15) / 4]]
    rows += [np.zeros(32), -np.zeros(32), np.r_[-0.0, np.zeros(31)], np.eye(1, 32, 7)[0], -np.eye(1, 32, 7)[0]]
    rows += [np.r_[1, -1, np.zeros(30)], np.r_[-1, 1, np.zeros(30)], np.full(32, 0.3), np.full(32, -0.3)]
    rows += [random.normal(0, 10.0**e, 32) for e in (-9, -8, -7, -6, -5, -4, 2, 4)]
    return np.array(rows, np.float32)


def main() -> None:
    warnings.simplefilter("ignore")
    random = np.random.default_rng(20240607)
    for name in FORMATS:
        data = blocks(name, random)
        data.tofile(HERE / f"{name}.blocks")
        dequantize(data, Type[name]).astype("<f4").tofile(HERE / f"{name}.f32")
    rows = weights(random)
    rows.astype("<f4").tofile(HERE / "weights.f32")
    for name in WRITTEN:
        quantize(rows, Type[name]).tofile(HERE / f"{name}.quantized")


main()
