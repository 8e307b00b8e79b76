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
# Those whose codes are points of a list, and the ternary ones: made last, as they came later.
CODEBOOKS = {
    "IQ2_XXS": (16, 66, [0]),
    "IQ2_XS": (16, 74, [0]),
    "IQ2_S": (32, 82, [0]),
    "IQ3_XXS": (16, 98, [0]),
    "IQ3_S": (16, 110, [0]),
    "IQ1_S": (64, 50, [0]),
    "IQ1_M": (16, 56, []),
    "TQ1_0": (16, 54, [52]),
    "TQ2_0": (16, 66, [64]),
}
WRITTEN = ["F32", "F16", "BF16", "Q4_0", "Q8_0"]
# Zeros, the smallest and largest subnormal and normal numbers, infinities, quiet and signalling NaN.
SPECIAL_F16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFD01]


def blocks(name: str, random: np.random.Generator) -> np.ndarray:
    """Random bytes; about half of the blocks get ordinary scales, a quarter special ones, the rest stay random."""
    count, size, fields = (FORMATS | CODEBOOKS)[name]
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
    if name == "IQ1_M":
        scatter_scale(data, random)
    every_point(name, data)
    return data


def scatter_scale(data: np.ndarray, random: np.random.Generator) -> None:
    """IQ1_M keeps its F16 in the upper halves of four bytes."""
    for i, block in enumerate(data):
        ordinary = np.float16(random.normal() * 0.01).view(np.uint16)
        value = int(random.choice(SPECIAL_F16) if i % 4 == 3 else ordinary)
        for part in range(4):
            block[49 + 2 * part] = int(block[49 + 2 * part]) & 15 | (value >> (4 * part) & 15) << 4


def every_point(name: str, data: np.ndarray) -> None:
    """Lets the indices run through the whole list of points."""
    count = len(data)
    eights, fours = np.arange(count * 32).reshape(count, 32), np.arange(count * 64).reshape(count, 64)
    if name == "IQ2_XXS":
        data[:, 2:].reshape(count, 8, 8)[:, :, :4] = eights.reshape(count, 8, 4) % 256
    elif name == "IQ2_XS":
        words = data[:, 2:66].copy().view("<u2") & 0xFE00 | (eights % 512).astype("<u2")
        data[:, 2:66] = words.view(np.uint8)
    elif name == "IQ2_S":
        upper = (eights >> 8 & 3).reshape(count, 8, 4) << [0, 2, 4, 6]
        data[:, 2:34], data[:, 66:74] = eights & 255, upper.sum(axis=2)
    elif name == "IQ3_XXS":
        data[:, 2:66] = fours & 255
    elif name == "IQ3_S":
        data[:, 2:66], data[:, 66:74] = fours & 255, np.packbits(fours >> 8 & 1, axis=1, bitorder="little")
    elif name == "IQ1_S":
        upper = ((eights >> 8 & 7).reshape(count, 8, 4) << [0, 3, 6, 9]).sum(axis=2).astype("<u2")
        words = data[:, 34:].copy().view("<u2") & 0xF000 | upper
        data[:, 2:34], data[:, 34:] = eights & 255, words.view(np.uint8)


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
        write(name, random)
    rows = weights(random)
    rows.astype("<f4").tofile(HERE / "weights.f32")
    for name in WRITTEN:
        quantize(rows, Type[name]).tofile(HERE / f"{name}.quantized")
    for name in CODEBOOKS:
        write(name, random)


def write(name: str, random: np.random.Generator) -> None:
    data = blocks(name, random)
    data.tofile(HERE / f"{name}.blocks")
    dequantize(data, Type[name]).astype("<f4").tofile(HERE / f"{name}.f32")


main()
