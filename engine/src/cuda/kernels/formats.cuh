// How weights come out of their bits: the formats of engine/src/quant, whose files draw their bytes, with the
// same codes, scales and mins to the bit.
//
// A format is a struct named as GGUF names it. It reads 32-bit words of a block through an accessor, so that
// rows as they lie in the file and panels share it: `word(i)` is word i of the block without its odd bytes,
// `odd()` those, `grid()` the format's points. Words are loads: their index may be known at run time only.
#pragma once
#include "device.h"

/// What is so unless a format says otherwise.
template <int len, int bytes, int group> struct BlockFormat {
    /// Weights of a block, its bytes, and weights that share a scale.
    static constexpr int LEN = len, BYTES = bytes, GROUP = group;
    /// Whether groups have mins: a weight is `code * scale - min`.
    static constexpr bool MIN = false;
    /// Whether 256 inputs share a scale, instead of 32.
    static constexpr bool COARSE = false;
    /// Whether the bytes that make no whole word are the first of a block; otherwise they are the last.
    static constexpr bool ODD_FIRST = false;
    /// Whether rows may lie in panels.
    static constexpr bool PANELS = false;

    /// Where a word of a block lies among the words of a panel.
    DEVICE int place(int word) { return word; }
};

// Besides, every format has `unpack(words, group, codes, scale, min)`: columns 32 * group to 32 * group + 32 of
// a block, the lowest of four in the lowest byte. Of scale and min, [0] is written where GROUP is 32, and [1],
// too, for the second half, where it is 16; of min nothing without MIN.

namespace bits {

/// Four signed bytes.
DEVICE uint32_t four(int a, int b, int c, int d) {
    return (uint32_t)((a & 255) | (b & 255) << 8 | (c & 255) << 16) | (uint32_t)d << 24;
}
DEVICE uint32_t byte(uint32_t word, int number) { return word >> 8 * number & 255; }
DEVICE uint32_t nibble(uint32_t word, int number) { return word >> 4 * number & 15; }
DEVICE float low_half(uint32_t word) { return half_to_float((uint16_t)word); }
DEVICE float high_half(uint32_t word) { return half_to_float((uint16_t)(word >> 16)); }

/// Four codes from 0 to 127, each `less` smaller; no byte borrows from the next.
template <int less> DEVICE uint32_t lower(uint32_t codes) {
    return ((codes | 0x80808080) - 0x01010101u * less) ^ 0x80808080;
}

/// The lower four bits of a word, a byte each.
DEVICE uint32_t spread(uint32_t word) { return (word & 15) * 0x00204081 & 0x01010101; }

/// Four positive codes, negative where one of the lower four bits is 1: the complement plus one, and no
/// positive code carries into its neighbour.
DEVICE uint32_t with_signs(uint32_t codes, uint32_t signs) {
    uint32_t ones = spread(signs);
    return (codes ^ ones * 255) + ones;
}

/// Seven signs with an eighth that makes the number of ones even.
DEVICE uint32_t even(uint32_t signs) {
    uint32_t folded = signs ^ signs >> 4;
    // Bit n of the constant is 1 where n has an odd number of ones.
    return signs | (0x6996u >> (folded & 15) & 1) << 7;
}

/// Thirty-two nibbles of four words: the low ones of all bytes, then the high ones.
template <class Words> DEVICE void nibbles(const Words &words, int first, uint32_t (&codes)[8]) {
    UNROLL for (int i = 0; i < 4; i++) {
        uint32_t word = words.word(first + i);
        codes[i] = word & 0x0f0f0f0f;
        codes[i + 4] = word >> 4 & 0x0f0f0f0f;
    }
}

/// Adds a bit of `fifth` as bit 4 to each of thirty-two codes.
DEVICE void add_fifth(uint32_t fifth, uint32_t (&codes)[8]) {
    UNROLL for (int i = 0; i < 8; i++) codes[i] |= spread(fifth >> 4 * i) << 4;
}

template <int less> DEVICE void lower_all(uint32_t (&codes)[8]) {
    UNROLL for (int i = 0; i < 8; i++) codes[i] = lower<less>(codes[i]);
}

/// Codes that share bytes with those 32, 64 and 96 columns on: two bits each.
template <class Words> DEVICE void pairs(const Words &words, int first, int group, uint32_t (&codes)[8]) {
    int base = first + (group >> 2) * 8, shift = (group & 3) * 2;
    UNROLL for (int i = 0; i < 8; i++) codes[i] = words.word(base + i) >> shift & 0x03030303;
}

/// Codes that share bytes with those 32 columns on: four bits each.
template <class Words> DEVICE void fours(const Words &words, int first, int group, uint32_t (&codes)[8]) {
    int base = first + (group >> 1) * 8, shift = (group & 1) * 4;
    UNROLL for (int i = 0; i < 8; i++) codes[i] = words.word(base + i) >> shift & 0x0f0f0f0f;
}

/// Sixteen signed bytes.
struct Table {
    uint32_t a, b, c, d;
};

/// VALUES of iq4_nl.rs.
DEVICE Table iq4_values() {
    return {four(-127, -104, -83, -65), four(-49, -35, -22, -10), four(1, 13, 25, 38), four(53, 69, 89, 113)};
}

/// DOUBLED of mxfp4.rs.
DEVICE Table mxfp4_values() {
    return {four(0, 1, 2, 3), four(4, 6, 8, 12), four(0, -1, -2, -3), four(-4, -6, -8, -12)};
}

/// As `nibbles`, with what they stand for.
template <class Words> DEVICE void look_up(const Words &words, int first, Table table, uint32_t (&codes)[8]) {
    UNROLL for (int i = 0; i < 4; i++) {
        uint32_t indices = words.word(first + i), found[2];
        UNROLL for (int half = 0; half < 2; half++) {
            uint32_t four = indices >> 16 * half;
            uint32_t small = byte_permute(table.a, table.b, four), large = byte_permute(table.c, table.d, four);
            found[half] = byte_permute(small, large, 0x3210 | (four >> 1 & 0x4444));
        }
        codes[i] = byte_permute(found[0], found[1], 0x6420);
        codes[i + 4] = byte_permute(found[0], found[1], 0x7531);
    }
}

/// Scale and min of a group of Q4_K or Q5_K: the first four words of a block.
template <class Words>
DEVICE void scale_min(const Words &words, int group, float (&scale)[2], float (&min)[2]) {
    uint32_t both = words.word(0), scales = words.word(1), mins = words.word(2), rest = words.word(3);
    int shift = (group & 3) * 8;
    scales >>= shift, mins >>= shift, rest >>= shift;
    bool first = group < 4;
    uint32_t s = first ? scales & 63 : (rest & 15) | (scales >> 2 & 48);
    uint32_t m = first ? mins & 63 : (rest >> 4 & 15) | (mins >> 2 & 48);
    scale[0] = low_half(both) * (float)s;
    min[0] = high_half(both) * (float)m;
}

/// Eight columns that are a point of a grid with signs.
DEVICE void signed_point(uint32_t first, uint32_t second, uint32_t signs, uint32_t &low, uint32_t &high) {
    low = with_signs(first, signs);
    high = with_signs(second, signs >> 4);
}
DEVICE void signed_point(uint64_t point, uint32_t signs, uint32_t &low, uint32_t &high) {
    signed_point((uint32_t)point, (uint32_t)(point >> 32), signs, low, high);
}

/// Four values of -8, 0 or 8, each one more, or one less where they are `lowered`.
DEVICE uint32_t shifted(uint32_t values, bool lowered) {
    return ((values ^ 0x80808080) + (lowered ? 0u - 0x01010101u : 0x01010101u)) ^ 0x80808080;
}
DEVICE void shifted_point(uint64_t point, bool lowered, uint32_t &low, uint32_t &high) {
    low = shifted((uint32_t)point, lowered);
    high = shifted((uint32_t)(point >> 32), lowered);
}

/// Scales of IQ2_XS and IQ2_S: of a group and the next, four bits each in one byte.
DEVICE void quarter_scales(float d, uint32_t byte, float (&scale)[2]) {
    scale[0] = d * (0.5f + (float)(byte & 15)) * 0.25f;
    scale[1] = d * (0.5f + (float)(byte >> 4)) * 0.25f;
}

} // namespace bits

struct Q4_0 : BlockFormat<32, 18, 32> {
    static constexpr bool ODD_FIRST = true, PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::nibbles(words, 0, codes);
        bits::lower_all<8>(codes);
        scale[0] = bits::low_half(words.odd());
    }
};

struct Q4_1 : BlockFormat<32, 20, 32> {
    static constexpr bool MIN = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&min)[2]) {
        uint32_t both = words.word(0);
        bits::nibbles(words, 1, codes);
        scale[0] = bits::low_half(both);
        min[0] = -bits::high_half(both);
    }
};

struct Q5_0 : BlockFormat<32, 22, 32> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::nibbles(words, 1, codes);
        bits::add_fifth(words.word(0), codes);
        bits::lower_all<16>(codes);
        scale[0] = bits::low_half(words.odd());
    }
};

struct Q5_1 : BlockFormat<32, 24, 32> {
    static constexpr bool MIN = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&min)[2]) {
        uint32_t both = words.word(0);
        bits::nibbles(words, 2, codes);
        bits::add_fifth(words.word(1), codes);
        scale[0] = bits::low_half(both);
        min[0] = -bits::high_half(both);
    }
};

struct Q8_0 : BlockFormat<32, 34, 32> {
    static constexpr bool ODD_FIRST = true, PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        UNROLL for (int i = 0; i < 8; i++) codes[i] = words.word(i);
        scale[0] = bits::low_half(words.odd());
    }
};

struct Q2_K : BlockFormat<256, 84, 16> {
    static constexpr bool MIN = true, COARSE = true, PANELS = true;

    /// The last word comes first.
    DEVICE int place(int word) { return word == 20 ? 0 : word + 1; }

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2],
                       float (&min)[2]) {
        bits::pairs(words, 4, group, codes);
        uint32_t both = words.word(20), scales = words.word(group >> 1) >> (group & 1) * 16;
        float d = bits::low_half(both), dmin = bits::high_half(both);
        UNROLL for (int i = 0; i < 2; i++) {
            scale[i] = d * (float)bits::nibble(scales, 2 * i);
            min[i] = dmin * (float)bits::nibble(scales, 2 * i + 1);
        }
    }
};

struct Q3_K : BlockFormat<256, 110, 16> {
    static constexpr bool PANELS = true;

    /// Scales (words 24 to 27); of the first half low bits (8 to 16) and upper bits (0 to 8) by turns, four
    /// words at a time; low bits of the second half.
    DEVICE int place(int word) {
        return word >= 24 ? word - 24
               : word >= 16 ? word + 3
               : word >= 8 ? word - 5 + (word & 4)
                           : word + 7 + (word & 4);
    }

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::pairs(words, 8, group, codes);
        UNROLL for (int i = 0; i < 8; i++)
            codes[i] = bits::lower<4>(codes[i] | (words.word(i) >> group & 0x01010101) << 2);
        // Of two neighbouring scales the low four bits and the upper two, at the same place of two words.
        uint32_t low = words.word(24 + (group >> 1 & 1)) >> (group >> 2) * 4;
        uint32_t upper = words.word(26) >> (group >> 1) * 2;
        uint32_t both = ((low & 0x0f0f0f0f) | (upper & 0x03030303) << 4) >> (group & 1) * 16;
        float d = bits::low_half(words.odd());
        scale[0] = d * (float)((int)bits::byte(both, 0) - 32);
        scale[1] = d * (float)((int)bits::byte(both, 1) - 32);
    }
};

struct Q4_K : BlockFormat<256, 144, 32> {
    static constexpr bool MIN = true, PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2],
                       float (&min)[2]) {
        bits::fours(words, 4, group, codes);
        bits::scale_min(words, group, scale, min);
    }
};

struct Q5_K : BlockFormat<256, 176, 32> {
    static constexpr bool MIN = true, PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2],
                       float (&min)[2]) {
        bits::fours(words, 12, group, codes);
        UNROLL for (int i = 0; i < 8; i++) codes[i] |= (words.word(4 + i) >> group & 0x01010101) << 4;
        bits::scale_min(words, group, scale, min);
    }
};

struct Q6_K : BlockFormat<256, 210, 16> {
    static constexpr bool PANELS = true;

    /// Scales (words 48 to 52); then, of either half, low bits (16 words from 0 or 16) and upper bits (8 words
    /// from 32 or 40) by turns, four words at a time, and the low bits whose upper ones stand there already.
    DEVICE int place(int word) {
        return word >= 48 ? word - 48
               : word >= 32 ? 8 + (word >> 3 & 1) * 24 + (word & 7) + (word & 4)
                            : 4 + (word >> 4) * 24 + (word & 15) + ((word & 8) ? 8 : word & 4);
    }

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::pairs(words, 32, group, codes);
        int base = (group >> 2) * 16 + (group & 1) * 8, shift = (group >> 1 & 1) * 4;
        UNROLL for (int i = 0; i < 8; i++)
            codes[i] = bits::lower<32>((words.word(base + i) >> shift & 0x0f0f0f0f) | codes[i] << 4);
        uint32_t scales = words.word(48 + (group >> 1)) >> (group & 1) * 16;
        float d = bits::low_half(words.odd());
        scale[0] = d * (float)(int8_t)bits::byte(scales, 0);
        scale[1] = d * (float)(int8_t)bits::byte(scales, 1);
    }
};

struct IQ1_S : BlockFormat<256, 50, 32> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        uint32_t low = words.word(group), upper = words.word(8 + (group >> 1)) >> (group & 1) * 16;
        bool lowered = upper >> 15 & 1;
        UNROLL for (int j = 0; j < 4; j++) {
            uint32_t index = bits::byte(low, j) | (upper >> 3 * j & 7) << 8;
            bits::shifted_point(grid[index], lowered, codes[2 * j], codes[2 * j + 1]);
        }
        scale[0] = bits::low_half(words.odd()) * (float)(2 * (upper >> 12 & 7) + 1) * 0.125f;
    }
};

struct IQ1_M : BlockFormat<256, 56, 16> {
    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        uint32_t low = words.word(group), upper = words.word(8 + (group >> 1)) >> (group & 1) * 16;
        UNROLL for (int j = 0; j < 4; j++) {
            uint32_t four = bits::nibble(upper, j), index = bits::byte(low, j) | (four & 7) << 8;
            bits::shifted_point(grid[index], four & 8, codes[2 * j], codes[2 * j + 1]);
        }
        uint32_t first = words.word(12), second = words.word(13);
        float d = bits::low_half((first >> 12 & 15) | (first >> 24 & 0xf0) | (second >> 4 & 0xf00) |
                                 (second >> 16 & 0xf000));
        uint32_t scales = (group < 4 ? first : second) >> (group >> 1 & 1) * 16 >> (group & 1) * 6;
        scale[0] = d * (float)(2 * (scales & 7) + 1) * 0.125f;
        scale[1] = d * (float)(2 * (scales >> 3 & 7) + 1) * 0.125f;
    }
};

struct IQ2_XXS : BlockFormat<256, 66, 32> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        uint32_t indices = words.word(2 * group), rest = words.word(2 * group + 1);
        UNROLL for (int j = 0; j < 4; j++)
            bits::signed_point(grid[bits::byte(indices, j)], bits::even(rest >> 7 * j & 127), codes[2 * j],
                               codes[2 * j + 1]);
        scale[0] = bits::low_half(words.odd()) * (0.5f + (float)(rest >> 28)) * 0.25f;
    }
};

struct IQ2_XS : BlockFormat<256, 74, 16> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        UNROLL for (int i = 0; i < 2; i++) {
            uint32_t octets = words.word(2 * group + i);
            UNROLL for (int half = 0; half < 2; half++) {
                uint32_t octet = octets >> 16 * half & 0xffff;
                int at = 4 * i + 2 * half;
                bits::signed_point(grid[octet & 511], bits::even(octet >> 9), codes[at], codes[at + 1]);
            }
        }
        uint32_t scales = bits::byte(words.word(16 + (group >> 2)), group & 3);
        bits::quarter_scales(bits::low_half(words.odd()), scales, scale);
    }
};

struct IQ2_S : BlockFormat<256, 82, 16> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        uint32_t low = words.word(group), signs = words.word(8 + group);
        uint32_t upper = bits::byte(words.word(16 + (group >> 2)), group & 3);
        UNROLL for (int j = 0; j < 4; j++) {
            uint32_t index = bits::byte(low, j) | (upper >> 2 * j & 3) << 8;
            bits::signed_point(grid[index], bits::byte(signs, j), codes[2 * j], codes[2 * j + 1]);
        }
        uint32_t scales = bits::byte(words.word(18 + (group >> 2)), group & 3);
        bits::quarter_scales(bits::low_half(words.odd()), scales, scale);
    }
};

struct IQ3_XXS : BlockFormat<256, 98, 32> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        uint32_t rest = words.word(16 + group);
        UNROLL for (int i = 0; i < 2; i++) {
            uint32_t indices = words.word(2 * group + i);
            UNROLL for (int half = 0; half < 2; half++) {
                int j = 2 * i + half;
                uint32_t first = bits::byte(indices, 2 * half), second = bits::byte(indices, 2 * half + 1);
                bits::signed_point((uint32_t)grid[first], (uint32_t)grid[second],
                                   bits::even(rest >> 7 * j & 127), codes[2 * j], codes[2 * j + 1]);
            }
        }
        scale[0] = bits::low_half(words.odd()) * (0.5f + (float)(rest >> 28)) * 0.5f;
    }
};

struct IQ3_S : BlockFormat<256, 110, 32> {
    static constexpr bool ODD_FIRST = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t *grid = words.grid();
        uint32_t signs = words.word(18 + group), ninth = bits::byte(words.word(16 + (group >> 2)), group & 3);
        UNROLL for (int i = 0; i < 2; i++) {
            uint32_t low = words.word(2 * group + i);
            UNROLL for (int half = 0; half < 2; half++) {
                int j = 2 * i + half;
                uint32_t first = bits::byte(low, 2 * half) | (ninth >> 2 * j & 1) << 8;
                uint32_t second = bits::byte(low, 2 * half + 1) | (ninth >> (2 * j + 1) & 1) << 8;
                bits::signed_point((uint32_t)grid[first], (uint32_t)grid[second], bits::byte(signs, j),
                                   codes[2 * j], codes[2 * j + 1]);
            }
        }
        uint32_t code = bits::nibble(words.word(26), group);
        scale[0] = bits::low_half(words.odd()) * (float)(1 + 2 * code);
    }
};

struct IQ4_NL : BlockFormat<32, 18, 32> {
    static constexpr bool ODD_FIRST = true, PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::look_up(words, 0, bits::iq4_values(), codes);
        scale[0] = bits::low_half(words.odd());
    }
};

struct IQ4_XS : BlockFormat<256, 136, 32> {
    static constexpr bool PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::look_up(words, 2 + 4 * group, bits::iq4_values(), codes);
        uint32_t first = words.word(0);
        uint32_t code = bits::nibble(words.word(1), group) | (first >> 16 >> 2 * group & 3) << 4;
        scale[0] = bits::low_half(first) * (float)((int)code - 32);
    }
};

struct TQ1_0 : BlockFormat<256, 54, 32> {
    /// A digit to the base 3 of each of four fractions of 256: `power` is 3 to its number.
    DEVICE uint32_t digits(uint32_t bytes, uint32_t power) {
        uint32_t even = (bytes & 0x00ff00ff) * power & 0x00ff00ff;
        uint32_t odd = (bytes >> 8 & 0x00ff00ff) * power & 0x00ff00ff;
        return (even * 3 >> 8 & 0x00ff00ff) | (odd * 3 & 0xff00ff00);
    }

    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        const uint64_t powers = 0x511b090301; // 1, 3, 9, 27, 81
        UNROLL for (int i = 0; i < 8; i++) {
            // Five digits of words 0 to 8, five of words 8 to 12, four of word 12.
            int word = i, digit = group;
            if (group >= 5) word = 8 + (i & 3), digit = 2 * (group - 5) + (i >> 2);
            if (group == 7 && i >= 4) word = 12, digit = i - 4;
            codes[i] = bits::lower<1>(digits(words.word(word), (uint32_t)(powers >> 8 * digit) & 255));
        }
        scale[0] = bits::low_half(words.odd());
    }
};

struct TQ2_0 : BlockFormat<256, 66, 32> {
    template <class Words>
    DEVICE void unpack(const Words &words, int group, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::pairs(words, 0, group, codes);
        bits::lower_all<1>(codes);
        scale[0] = bits::low_half(words.odd());
    }
};

struct MXFP4 : BlockFormat<32, 17, 32> {
    static constexpr bool ODD_FIRST = true, PANELS = true;

    template <class Words>
    DEVICE void unpack(const Words &words, int, uint32_t (&codes)[8], float (&scale)[2], float (&)[2]) {
        bits::look_up(words, 0, bits::mxfp4_values(), codes);
        // 2^(exponent - 128); the two smallest are subnormal.
        int exponent = (int)words.odd();
        scale[0] = bits_to_float(exponent < 2 ? 0x00200000 << exponent : (exponent - 1) << 23);
    }
};

// Floats: a number of a row that begins at `at`, which its size divides.

struct F32 {
    static constexpr int LEN = 1, BYTES = 4;
    DEVICE float value(const uint8_t *at, size_t index) { return ((const float *)at)[index]; }
};

struct F16 {
    static constexpr int LEN = 1, BYTES = 2;
    DEVICE float value(const uint8_t *at, size_t index) { return half_to_float(((const uint16_t *)at)[index]); }
};

struct BF16 {
    static constexpr int LEN = 1, BYTES = 2;
    DEVICE float value(const uint8_t *at, size_t index) {
        return bits_to_float((int)((uint32_t)((const uint16_t *)at)[index] << 16));
    }
};
