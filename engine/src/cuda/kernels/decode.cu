// Steps of a few rows joined into single kernels: the same numbers in the same order as steps.cu, products.cu and
// attention.cu give one after the other, so the same bits. Compiled once per format, which the macro FORMAT names.
//
// A block has 32 rows of a matrix and makes the inputs that it multiplies them with itself, in shared memory: normalises a
// row and rounds it to bytes. That is done again in every block, out of the second-level cache, and costs less than to
// wait for a kernel that does it once.
#include "products.cuh"
#include "route.cuh"

#ifndef DECODE_ONCE
#define DECODE_ONCE
/// Bytes of shared memory: a tile of terms or the sums of lanes, places for sums, and a row of `cols` inputs.
#define FLOATS_DECODE_SHARED(cols) (FLOATS_SHARED + NORM_SHARED + (cols) * 4)
#define DECODE_SHARED(F, cols) (products::Tiles<F, 1>::BYTES + NORM_SHARED + (cols) * 3 / 2)
namespace decode {

using namespace products;
using steps::Norm;

/// A row's inputs, normalised where the norm has weights, and rounded for blocks of codes. DECODE_SHARED, of
/// which the tile is left alone.
template <class F> DEVICE Inputs prepared(const float *x, const Norm &norm, int cols, uint8_t *shared) {
    uint8_t *places = shared;
    if constexpr (F::LEN == 1)
        places += FLOATS_SHARED;
    else
        places += Tiles<F, 1>::BYTES;
    uint8_t *room = places + NORM_SHARED;
    steps::NormOf found = {0.0f, 1.0f};
    if (norm.weight) found = steps::norm_of(x, norm, cols, (float *)places);
    auto value = [&](int i) { return norm.weight ? steps::normalised(x, norm, found, i) : x[i]; };
    Inputs inputs = {(float *)room, (int8_t *)room, (float *)(room + cols)};
    if constexpr (F::LEN == 1)
        for (int i = thread_x(); i < cols; i += products::THREADS) ((float *)room)[i] = value(i);
    else
        steps::quantize_row(value, cols, F::COARSE, (int8_t *)room, (float *)(room + cols));
    sync_block();
    return inputs;
}

/// The block's rows of a matrix times prepared inputs; `put(row, sum)` is called once for each, by the same thread for every
/// matrix.
template <class F, class Put>
DEVICE void multiply(const Matrix &matrix, int first_row, const Inputs &inputs, uint8_t *shared, Put put) {
    if constexpr (F::LEN == 1) {
        block_of_floats<F>(matrix, first_row, inputs, 0, shared, put);
    } else {
        int row = first_row + (thread_x() & 31);
        block_product<F, 1>(matrix, row, row < matrix.rows, inputs, 0, 1, shared,
                            [&](int, float sum) { put(row, sum); });
    }
}

/// Whether this block is the last of `all` that count themselves in; its threads see what the others have written then.
/// The counter is 0 again. `place` is shared memory.
DEVICE bool is_last(int *counter, int all, int *place) {
    sync_block();
    if (thread_x() == 0) {
        *place = arrive(counter) == all - 1;
        if (*place) *counter = 0;
    }
    sync_block();
    return *place != 0;
}

} // namespace decode
#endif

/// A row's products with up to three matrices of one format (`rows` 0: none), side by side in `out`, or added to it,
/// times `scale`. Blocks in x are the matrices' rows one after the other. DECODE_SHARED(cols).
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(row_products)(const float *x, int x_width, const float *weight, const float *norm_bias, float epsilon,
                            int is_layer_norm, int cols, int is_panels, const uint64_t *points, const uint8_t *bytes_0,
                            int rows_0, const float *bias_0, int at_0, const uint8_t *bytes_1, int rows_1,
                            const float *bias_1, int at_1, const uint8_t *bytes_2, int rows_2, const float *bias_2,
                            int at_2, float *out, int out_width, int is_added, float scale) {
    SHARED_MEMORY(shared);
    int block = block_x(), blocks_0 = (rows_0 + 31) / 32, blocks_1 = (rows_1 + 31) / 32;
    products::Matrix matrix = {bytes_0, rows_0, cols, is_panels, points};
    const float *bias = bias_0;
    int at = at_0;
    if (block >= blocks_0) {
        bool is_third = block >= blocks_0 + blocks_1;
        matrix.bytes = is_third ? bytes_2 : bytes_1, matrix.rows = is_third ? rows_2 : rows_1;
        bias = is_third ? bias_2 : bias_1, at = is_third ? at_2 : at_1;
        block -= is_third ? blocks_0 + blocks_1 : blocks_0;
    }
    const float *row_of_x = x + (size_t)block_y() * x_width;
    auto inputs = decode::prepared<FORMAT>(row_of_x, {weight, norm_bias, epsilon, is_layer_norm}, cols, shared);
    float *to = out + (size_t)block_y() * out_width + at;
    decode::multiply<FORMAT>(matrix, block * 32, inputs, shared, [&](int row, float sum) {
        float value = bias ? sum + bias[row] : sum;
        to[row] = is_added ? to[row] + value * scale : value;
    });
}

/// A matrix for each piece of a row; blocks in y are the pieces of the first row, then those of the next.
/// DECODE_SHARED(cols).
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(head_products)(const float *x, int x_width, int x_at, int x_stride, const uint64_t *heads, int count,
                             int rows, int cols, int is_panels, const uint64_t *points, float *out, int out_width,
                             int out_at, int out_stride) {
    SHARED_MEMORY(shared);
    int input = block_y() / count, head = block_y() % count;
    products::Matrix matrix = {(const uint8_t *)heads[head], rows, cols, is_panels, points};
    const float *piece = x + (size_t)input * x_width + x_at + head * x_stride;
    auto inputs = decode::prepared<FORMAT>(piece, {nullptr, nullptr, 0.0f, 0}, cols, shared);
    float *to = out + (size_t)input * out_width + out_at + head * out_stride;
    decode::multiply<FORMAT>(matrix, block_x() * 32, inputs, shared, [&](int row, float sum) { to[row] = sum; });
}

/// What goes from up to down, of one FFN, or of the chosen experts where there are choices: a slot for each, which is the
/// block in y. Without a gate (null, or an address of 0) `up` itself goes through the activation.
/// DECODE_SHARED(cols).
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(gate_up)(const float *x, int x_width, const float *weight, const float *norm_bias, float epsilon,
                       int is_layer_norm, const uint8_t *gate, const uint8_t *up, const uint64_t *addresses,
                       const int *choices, int used, int rows, int cols, int is_panels, const uint64_t *points,
                       const float *gate_bias, const float *up_bias, int kind, float *out) {
    SHARED_MEMORY(shared);
    int slot = block_y(), first = 0;
    if (choices) {
        int expert = choices[slot];
        if (expert < 0) return;
        gate = (const uint8_t *)addresses[(size_t)expert * 3], up = (const uint8_t *)addresses[(size_t)expert * 3 + 1];
        if (!up) return; // the whole block
        first = expert * rows;
    }
    const float *row_of_x = x + (size_t)(slot / used) * x_width;
    auto inputs = decode::prepared<FORMAT>(row_of_x, {weight, norm_bias, epsilon, is_layer_norm}, cols, shared);
    float of_gate = 0.0f;
    int first_row = block_x() * 32;
    if (gate)
        decode::multiply<FORMAT>({gate, rows, cols, is_panels, points}, first_row, inputs, shared, [&](int row, float sum) {
            of_gate = gate_bias ? sum + gate_bias[first + row] : sum;
        });
    sync_block(); // of floats, the sums of lanes are in use
    decode::multiply<FORMAT>({up, rows, cols, is_panels, points}, first_row, inputs, shared, [&](int row, float sum) {
        float of_up = up_bias ? sum + up_bias[first + row] : sum;
        out[(size_t)slot * rows + row] = steps::gated(kind, gate != nullptr, of_gate, of_up);
    });
}

/// The weighted sum of what the chosen experts make of their slots, the strongest choice first, on top of `start` (null:
/// of zeros): in place of `out`, or added to it, times `scale`. The last block of a row's slots adds them up; `slots`
/// (rows * used, rows of the matrix) is where they meet, `arrived` has a zero for each block of 32 rows of each row.
/// DECODE_SHARED(cols).
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(down)(const float *hidden, const uint64_t *addresses, const int *choices, const float *scores, int used,
                    int rows, int cols, int is_panels, const uint64_t *points, const float *bias, float *slots,
                    int *arrived, const float *start, float *out, int is_added, float scale) {
    SHARED_MEMORY(shared);
    int slot = block_y(), input = slot / used, expert = choices[slot], first_row = block_x() * 32;
    const uint8_t *bytes = expert < 0 ? nullptr : (const uint8_t *)addresses[(size_t)expert * 3 + 2];
    if (bytes) {
        const float *row_of_x = hidden + (size_t)slot * cols;
        auto inputs = decode::prepared<FORMAT>(row_of_x, {nullptr, nullptr, 0.0f, 0}, cols, shared);
        float *own = slots + (size_t)slot * rows;
        decode::multiply<FORMAT>({bytes, rows, cols, is_panels, points}, first_row, inputs, shared,
                                 [&](int row, float sum) { own[row] = bias ? sum + bias[(size_t)expert * rows + row] : sum; });
    }
    int *counter = arrived + input * ((rows + 31) / 32) + block_x();
    if (!decode::is_last(counter, used, (int *)shared)) return;
    int row = first_row + thread_x();
    if (thread_x() >= 32 || row >= rows) return;
    float sum = start ? start[(size_t)input * rows + row] : 0.0f;
    for (int i = input * used; i < (input + 1) * used; i++)
        if (choices[i] >= 0) sum += scores[i] * load_from_others(slots + (size_t)i * rows + row);
    float *to = out + (size_t)input * rows + row;
    *to = is_added ? *to + sum * scale : sum;
}

#ifdef FORMAT_OF_FLOATS
/// A row's experts: norm, router and choice; the last block of a row chooses. `logits` (rows, experts) is where they meet,
/// `arrived` has a zero for each row. The larger of FLOATS_DECODE_SHARED(cols) and ROUTE_SHARED(experts).
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(norm_route)(const float *x, int x_width, const float *weight, const float *norm_bias, float epsilon,
                          int is_layer_norm, const uint8_t *bytes, int experts, int cols, const float *bias, float *logits,
                          int *arrived, const float *choice_bias, int used, int gating, int groups, int groups_used,
                          int groups_counted, int normalise, float weight_scale, float threshold,
                          const float *expert_scale, int *choices, float *scores) {
    SHARED_MEMORY(shared);
    int row = block_y();
    const float *row_of_x = x + (size_t)row * x_width;
    auto inputs = decode::prepared<FORMAT>(row_of_x, {weight, norm_bias, epsilon, is_layer_norm}, cols, shared);
    float *own = logits + (size_t)row * experts;
    decode::multiply<FORMAT>({bytes, experts, cols, 0, nullptr}, block_x() * 32, inputs, shared,
                             [&](int expert, float sum) { own[expert] = bias ? sum + bias[expert] : sum; });
    if (!decode::is_last(arrived + row, (experts + 31) / 32, (int *)shared)) return;
    sync_block(); // the place is in use
    steps::Routing by = {choice_bias, experts,    used,         gating,   groups, groups_used, groups_counted,
                         normalise,   weight_scale, threshold,    expert_scale};
    steps::route_row(by, [&](int i) { return load_from_others(own + i); }, choices + (size_t)row * used,
                     scores + (size_t)row * used, shared);
}
#endif
