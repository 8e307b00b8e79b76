// The arithmetic inside a forward's steps: exponentials, activations, sums over a block.
//
// What engine/src/ops computes in f32 has the same bits here: the same constants, in the same order, without
// contraction. Sums over a block go through a fixed tree, which does not depend on the grid. Only numbers that
// are not a number may differ in their bits.
#pragma once
#include "device.h"

namespace steps {

/// Threads of a block, of every kernel of the steps.
constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;
/// 1.5 * 2^23. Added to a number it rounds it to the nearest whole one, halves to even, in the last bits of the
/// sum.
constexpr float ROUND = 12582912.0f;
constexpr float LOG2_E = 1.44269504088896340736f;
constexpr float LN2_HIGH = 0.6933594f;
constexpr float LN2_LOW = -2.1219444e-4f;

DEVICE float infinity() { return bits_to_float(0x7f800000); }
/// The larger number; `b` where one is none.
DEVICE float larger(float a, float b) { return a > b ? a : b; }
DEVICE float smaller(float a, float b) { return a < b ? a : b; }
DEVICE float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
DEVICE float magnitude(float x) { return bits_to_float(float_to_bits(x) & 0x7fffffff); }
/// 2^n for the exponents of normal numbers.
DEVICE float power_of_two(int n) { return bits_to_float((int)((uint32_t)(n + 127) << 23)); }

/// ops::exp.
DEVICE float exponential(float x) {
    float clamped = clamp(x, -87.33f, 88.72f);
    float rounded = clamped * LOG2_E + ROUND;
    float n = rounded - ROUND;
    float r = clamped - n * LN2_HIGH - n * LN2_LOW;
    float p = 1.9875691e-4f;
    p = p * r + 1.3982e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    float value = p * r * r + r + 1.0f;
    // In two steps: the power reaches 128, one past the largest exponent.
    int power = (int)((uint32_t)float_to_bits(rounded) - (uint32_t)float_to_bits(ROUND)), half = power >> 1;
    value = value * power_of_two(half) * power_of_two(power - half);
    value = x < -87.33f ? 0.0f : value;
    return x > 88.72f ? infinity() : value;
}

/// ops::exp_of_negatives with fused multiplications: of numbers that are 0 or less.
DEVICE float exponential_of_negative(float x) {
    x = -110.0f > x ? -110.0f : x;
    float n = multiply_add(x, LOG2_E, ROUND) - ROUND;
    float r = multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, x));
    float p = 1.9875691e-4f;
    p = multiply_add(p, r, 1.3982e-3f);
    p = multiply_add(p, r, 8.333452e-3f);
    p = multiply_add(p, r, 4.1665796e-2f);
    p = multiply_add(p, r, 1.6666665e-1f);
    p = multiply_add(p, r, 0.5f);
    // A biased exponent of 0 makes 0.
    float exponent = larger(n, -127.0f) + (ROUND + 127.0f);
    return (multiply_add(p, r * r, r) + 1.0f) * bits_to_float((int)((uint32_t)float_to_bits(exponent) << 23));
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The error function, from FreeBSD's s_erff.c and e_expf.c, as Rust's libm has them:
//
// Conversion to float by Ian Lance Taylor, Cygnus Support, ian@cygnus.com.
// ====================================================
// Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved.
//
// Developed at SunPro, a Sun Microsystems, Inc. business.
// Permission to use, copy, modify, and distribute this
// software is freely granted, provided that this notice
// is preserved.
// ====================================================

/// e to the power of `x`, of magnitudes below 64: what it returns is a normal number.
DEVICE float libm_exp(float x) {
    int bits = float_to_bits(x) & 0x7fffffff, k = 0;
    float high = x, low = 0.0f;
    if (bits > 0x3eb17218) { // ln(2) / 2
        bool is_negative = float_to_bits(x) < 0;
        if (bits > 0x3f851592) // 1.5 ln(2)
            k = (int)(1.4426950216e+00f * x + (is_negative ? -0.5f : 0.5f));
        else
            k = is_negative ? -1 : 1;
        high = x - (float)k * 6.9314575195e-01f;
        low = (float)k * 1.4286067653e-06f;
        x = high - low;
    } else if (bits <= 0x39000000) { // 2^-14
        return 1.0f + x;
    }
    float square = x * x;
    float c = x - square * (1.6666625440e-1f + square * -2.7667332906e-3f);
    float y = 1.0f + (x * c / (2.0f - c) - low + high);
    return k == 0 ? y : y * power_of_two(k);
}

/// 1 - erf of magnitudes from 0.84375 to 6.
DEVICE float libm_erfc(float x) {
    if (x < 1.25f) {
        float s = x - 1.0f;
        float p = 3.5478305072e-02f + s * -2.1663755178e-03f;
        p = -3.7220788002e-01f + s * (3.1834661961e-01f + s * (-1.1089469492e-01f + s * p));
        p = -2.3621185683e-03f + s * (4.1485610604e-01f + s * p);
        float q = 1.2617121637e-01f + s * (1.3637083583e-02f + s * 1.1984500103e-02f);
        q = 1.0f + s * (1.0642088205e-01f + s * (5.4039794207e-01f + s * (7.1828655899e-02f + s * q)));
        return 1.0f - 8.4506291151e-01f - p / q;
    }
    float s = 1.0f / (x * x), r, t;
    if (float_to_bits(x) < 0x4036db6d) { // 1 / 0.35
        r = -8.1287437439e+01f + s * -9.8143291473e+00f;
        r = -6.2375331879e+01f + s * (-1.6239666748e+02f + s * (-1.8460508728e+02f + s * r));
        r = -9.8649440333e-03f + s * (-6.9385856390e-01f + s * (-1.0558626175e+01f + s * r));
        t = 1.0863500214e+02f + s * (6.5702495575e+00f + s * -6.0424413532e-02f);
        t = 4.3456588745e+02f + s * (6.4538726807e+02f + s * (4.2900814819e+02f + s * t));
        t = 1.0f + s * (1.9651271820e+01f + s * (1.3765776062e+02f + s * t));
    } else {
        r = -1.0250950928e+03f + s * -4.8351919556e+02f;
        r = -1.7757955551e+01f + s * (-1.6063638306e+02f + s * (-6.3756646729e+02f + s * r));
        r = -9.8649431020e-03f + s * (-7.9928326607e-01f + s * r);
        t = 2.5530502930e+03f + s * (4.7452853394e+02f + s * -2.2440952301e+01f);
        t = 3.2579251099e+02f + s * (1.5367296143e+03f + s * (3.1998581543e+03f + s * t));
        t = 1.0f + s * (3.0338060379e+01f + s * t);
    }
    float z = bits_to_float(float_to_bits(x) & (int)0xffffe000);
    return libm_exp(-z * z - 0.5625f) * libm_exp((z - x) * (z + x) + r / t) / x;
}

/// libm::erff.
DEVICE float libm_erf(float x) {
    float size = magnitude(x);
    if (!(size < infinity())) return (x < 0.0f ? -1.0f : 1.0f) + 1.0f / x;
    if (size < 3.7252903e-09f) return 0.125f * (8.0f * x + 1.0270333290e+00f * x); // 2^-28
    if (size < 0.84375f) {
        float z = x * x;
        float r = -2.8481749818e-02f + z * (-5.7702702470e-03f + z * -2.3763017452e-05f);
        r = 1.2837916613e-01f + z * (-3.2504209876e-01f + z * r);
        float s = 5.0813062117e-03f + z * (1.3249473704e-04f + z * -3.9602282413e-06f);
        s = 1.0f + z * (3.9791721106e-01f + z * (6.5022252500e-02f + z * s));
        return x + x * (r / s);
    }
    float y = size < 6.0f ? 1.0f - libm_erfc(size) : 1.0f;
    return x < 0.0f ? -y : y;
}

/// libm::log1pf, of numbers that are not negative; from the same sources.
DEVICE float libm_log1p(float x) {
    int bits = float_to_bits(x), k = 0;
    if (bits < 0x33800000 || bits >= 0x7f800000) return x; // 2^-24
    float c = 0.0f, f = x;
    if (bits >= 0x3ed413d0) { // sqrt(2) - 1
        float u = 1.0f + x;
        uint32_t whole = (uint32_t)float_to_bits(u) + (0x3f800000u - 0x3f3504f3u);
        k = (int)(whole >> 23) - 127;
        if (k < 25) c = (k >= 2 ? 1.0f - (u - x) : x - (u - 1.0f)) / u;
        f = bits_to_float((int)((whole & 0x007fffffu) + 0x3f3504f3u)) - 1.0f;
    }
    float s = f / (2.0f + f), z = s * s, w = z * z;
    float odd = w * (4.0000972152e-01f + w * 2.4279078841e-01f);
    float r = z * (6.6666662693e-01f + w * 2.8498786688e-01f) + odd;
    float half = 0.5f * f * f, power = (float)k;
    return s * (half + r) + (power * 9.0580006145e-06f + c) - half + f + power * 6.9313812256e-01f;
}

/// ops::Activation, in the order of `kind_of` in cuda/launch.rs.
enum Activation { SILU, GELU_ERF, GELU_TANH, RELU, SWIGLU_OAI, RELU_SQUARED };

/// Activation::apply.
DEVICE float activated(int kind, float x) {
    switch (kind) {
    case SILU: return x / (1.0f + exponential(-x));
    case GELU_ERF: return 0.5f * x * (1.0f + libm_erf(x * 0.707106781186547524400844362104849039f));
    case GELU_TANH: {
        float inner = 0.7978846f * (x + 0.044715f * x * x * x);
        return 0.5f * x * (2.0f - 2.0f / (exponential(2.0f * inner) + 1.0f));
    }
    case RELU: return larger(x, 0.0f);
    case RELU_SQUARED: return larger(x, 0.0f) * larger(x, 0.0f);
    default: x = smaller(x, 7.0f); return x / (1.0f + exponential(-1.702f * x));
    }
}

/// The sum over a warp, in all of its lanes.
DEVICE float warp_sum(float value) {
    UNROLL for (int mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
    return value;
}

DEVICE float warp_largest(float value) {
    UNROLL for (int mask = 16; mask > 0; mask >>= 1) value = larger(value, shuffle_xor(value, mask));
    return value;
}

/// The sum over a block, in all of its threads. `places` are WARPS of shared memory, which
/// others may write after one more barrier.
DEVICE float block_sum(float value, float *places) {
    value = warp_sum(value);
    if ((thread_x() & 31) == 0) places[thread_x() >> 5] = value;
    sync_block();
    return places[0] + places[1] + (places[2] + places[3]);
}

DEVICE float block_largest(float value, float *places) {
    value = warp_largest(value);
    if ((thread_x() & 31) == 0) places[thread_x() >> 5] = value;
    sync_block();
    return larger(larger(places[0], places[1]), larger(places[2], places[3]));
}

/// A norm's weights; none where `weight` is null.
struct Norm {
    const float *weight, *bias;
    float epsilon;
    int is_layer_norm;
};

/// What a norm finds in a row.
struct NormOf {
    float mean, factor;
};

/// In all threads. `places` are 2 * WARPS of shared memory.
DEVICE NormOf norm_of(const float *x, const Norm &norm, int width, float *places) {
    float mean = 0.0f;
    if (norm.is_layer_norm) {
        float sum = 0.0f;
        for (int i = thread_x(); i < width; i += THREADS) sum += x[i];
        mean = block_sum(sum, places) / (float)width;
    }
    float squares = 0.0f;
    for (int i = thread_x(); i < width; i += THREADS) {
        float distance = x[i] - mean;
        squares += distance * distance;
    }
    return {mean, 1.0f / square_root(block_sum(squares, places + WARPS) / (float)width + norm.epsilon)};
}

DEVICE float normalised(const float *x, const Norm &norm, const NormOf &found, int i) {
    float value = (x[i] - found.mean) * found.factor * norm.weight[i];
    return norm.is_layer_norm && norm.bias ? value + norm.bias[i] : value;
}

/// One row or a piece of it; `out` may be `x`.
DEVICE void norm_piece(const float *x, const Norm &norm, float *out, int width, float *places) {
    NormOf found = norm_of(x, norm, width, places);
    for (int i = thread_x(); i < width; i += THREADS) out[i] = normalised(x, norm, found, i);
}

/// Turns the first columns of a piece by angles, of which a row holds the cosines of all pairs, then the sines.
DEVICE void turn(float *piece, const float *angles, int pairs, bool is_neox) {
    const float *cosines = angles, *sines = angles + pairs;
    for (int j = thread_x(); j < pairs; j += THREADS) {
        int first = is_neox ? j : 2 * j, second = is_neox ? j + pairs : 2 * j + 1;
        float a = piece[first], b = piece[second];
        piece[first] = a * cosines[j] - b * sines[j];
        piece[second] = a * sines[j] + b * cosines[j];
    }
}

/// What goes from up to down; without a gate `up` itself goes through the function.
DEVICE float gated(int kind, bool has_gate, float gate, float up) {
    float f = activated(kind, has_gate ? gate : up);
    if (has_gate && kind == SWIGLU_OAI) up = clamp(up, -7.0f, 7.0f) + 1.0f;
    return has_gate ? f * up : f;
}

/// Columns `first` to `end` in bytes that share a scale, by a warp, as kernels/activations.rs rounds them; they are whole
/// groups of 32. `value(column)` is asked twice.
template <class Value>
DEVICE void quantize_neighbours(Value value, int first, int end, int8_t *codes, float *extras) {
    int lane = thread_x() & 31;
    float largest = 0.0f;
    for (int at = first; at < end; at += 32) largest = larger(largest, warp_largest(magnitude(value(at + lane))));
    // Numbers below 4e-37 have an infinite one: they become zeros.
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    inverse = inverse < infinity() ? inverse : 0.0f;
    // The CPU's scale of nothing but zeros is -0.
    float scale = largest > 0.0f ? largest / 127.0f : -0.0f;
    for (int at = first; at < end; at += 32) {
        float rounded = value(at + lane) * inverse + ROUND;
        codes[at + lane] = (int8_t)(float_to_bits(rounded) & 255);
        float half = rounded - ROUND; // whole numbers: sums are exact
        UNROLL for (int mask = 8; mask > 0; mask >>= 1) half += shuffle_xor(half, mask);
        float other = shuffle_xor(half, 16);
        float *extra = extras + at / 32 * 4;
        if (lane == 0) extra[0] = scale, extra[1] = scale * (half + other), extra[2] = scale * half;
        if (lane == 16) extra[3] = scale * half;
    }
}

/// A row in bytes: neighbours, 32 or 256, share a scale. A warp takes them.
template <class Value>
DEVICE void quantize_row(Value value, int width, bool is_coarse, int8_t *codes, float *extras) {
    int neighbours = is_coarse ? 256 : 32;
    for (int first = (thread_x() >> 5) * neighbours; first < width; first += WARPS * neighbours) {
        int end = first + neighbours < width ? first + neighbours : width;
        quantize_neighbours(value, first, end, codes, extras);
    }
}

} // namespace steps

/// Bytes of shared memory of norms.
#define NORM_SHARED (2 * steps::WARPS * 4)
