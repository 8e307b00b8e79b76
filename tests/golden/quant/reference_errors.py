"""Measures the quantization error of llama.cpp's ggml on seeded rows; see README.md beside this file.

    python reference_errors.py path/to/libggml-base.so > reference_errors.tsv

Every number is made by exactly rounded operations, so that the test in Rust measures the same rows.
"""

import ctypes
import math
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

ROWS, WIDTH = 16, 1024
FORMATS = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
FORMATS += "IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0".split()
# They refuse to do without importance, so all of it is 1 then.
DEMANDING = ["IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"]


class Random:
    """Knuth's 64-bit linear congruential generator."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def uniform(self) -> float:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 40) / 2**24

    def normal(self) -> float:
        """The sum of twelve uniform numbers: nearly normal, and free of logarithms."""
        return sum(self.uniform() for _ in range(12)) - 6.0


def rows(kind: str) -> np.ndarray:
    random = Random(1)
    values = []
    for _ in range(ROWS * WIDTH):
        value = random.normal()
        if kind == "heavy":  # Student's t with 4 degrees of freedom
            a, b, c, d = (random.normal() for _ in range(4))
            value /= math.sqrt((a * a + b * b + c * c + d * d) / 4.0)
        values.append(value * 0.02)
    return np.array(values, np.float32)


def importance() -> np.ndarray:
    random = Random(2)
    values = (random.normal() for _ in range(WIDTH))
    return np.array([v * v * v * v + 0.01 for v in values], np.float32)


def main() -> None:
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    factors = importance()
    print("format\trows\timportance\trelative error")
    for kind in ("normal", "heavy"):
        weights = rows(kind)
        for name in FORMATS:
            for weighted in (False, True):
                buffer = np.zeros(ROWS * WIDTH * 2, np.uint8)
                unweighted = np.ones(WIDTH, np.float32) if name in DEMANDING else None
                chosen = factors if weighted else unweighted
                factor_pointer = None if chosen is None else chosen.ctypes.data
                size = ggml.ggml_quantize_chunk(
                    Type[name], weights.ctypes.data, buffer.ctypes.data, 0, ROWS, WIDTH, factor_pointer
                )
                restored = dequantize(buffer[:size], Type[name]).astype(np.float64)
                w = np.tile(factors, ROWS).astype(np.float64) if weighted else 1.0
                x = weights.astype(np.float64)
                error = math.sqrt((w * (restored - x) ** 2).sum() / (w * x**2).sum())
                print(f"{name}\t{kind}\t{'yes' if weighted else 'no'}\t{error:.7f}")


main()
