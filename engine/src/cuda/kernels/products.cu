// Matrix products of one format, its rows of an embedding, and its experts: compiled once per format, which the macro
// FORMAT names.
//
// A thread is a row of the matrix and adds up its products in the order of columns, whatever the grid and however many
// inputs there are: so results have the bits of the CPU's panels, and do not depend on what else is computed. In panels
// the rows of a warp lie side by side, and a word of all of them is two lines of memory.
#include "formats.cuh"

#ifndef PRODUCTS_ONCE
#define PRODUCTS_ONCE
namespace products {

constexpr int PANEL = 16, THREADS = 128;

/// Where a matrix is and how it lies. Rows behind the last whole panel lie as in the file.
struct Matrix {
    const uint8_t *bytes;
    int rows, cols, is_panels;
    const uint64_t *points; // of the format's grid
};

/// A block's words, in the file's order or word by word beside those of fifteen other rows.
template <class F> struct BlockWords {
    const uint8_t *words, *odds;
    const uint64_t *points;
    bool in_panel;

    METHOD uint32_t word(int i) const {
        if (in_panel) return *(const uint32_t *)(words + F::place(i) * 4 * PANEL);
        const uint8_t *at = words + i * 4;
        if (F::BYTES % 4 == 0) return *(const uint32_t *)at;
        if (F::BYTES % 2 == 0) return ((const uint16_t *)at)[0] | (uint32_t)((const uint16_t *)at)[1] << 16;
        return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    }
    METHOD uint32_t odd() const { return F::BYTES % 4 == 2 ? odds[0] | (uint32_t)odds[1] << 8 : odds[0]; }
    METHOD const uint64_t *grid() const { return points; }
};

/// A block of a row.
template <class F> DEVICE BlockWords<F> block_of(const Matrix &matrix, int row, int block) {
    constexpr int ODD = F::BYTES % 4;
    size_t row_bytes = (size_t)(matrix.cols / F::LEN) * F::BYTES;
    if (!F::PANELS || !matrix.is_panels || row >= matrix.rows / PANEL * PANEL) {
        const uint8_t *at = matrix.bytes + row * row_bytes + (size_t)block * F::BYTES;
        return F::ODD_FIRST ? BlockWords<F>{at + ODD, at, matrix.points, false}
                            : BlockWords<F>{at, at + F::BYTES - ODD, matrix.points, false};
    }
    int lane = row % PANEL;
    size_t offset = row / PANEL * PANEL * row_bytes + (size_t)block * F::BYTES * PANEL;
    const uint8_t *at = matrix.bytes + offset;
    // Where a column of blocks begins at a line of the CPU's cache, so do its words.
    bool words_first = ODD == 0 || offset % 64 == 0;
    const uint8_t *words = words_first ? at : at + ODD * PANEL;
    const uint8_t *odds = words_first ? at + (F::BYTES - ODD) * PANEL : at;
    return {words + lane * 4, odds + lane * ODD, matrix.points, true};
}

/// Rows of inputs: as they are for floats, rounded to bytes for blocks.
struct Inputs {
    const float *values;  // (rows, cols)
    const int8_t *codes;  // (rows, cols)
    const float *extras;  // (rows, cols / 32, 4): scale, its sums over 32 and over each 16
};

DEVICE int dot16(const uint32_t *codes, const Words4 &x) {
    return dot4(codes[3], x.w, dot4(codes[2], x.z, dot4(codes[1], x.y, dot4(codes[0], x.x, 0))));
}

/// One row of the matrix times one row of inputs.
template <class F> struct Product {
    DEVICE float of(const Matrix &matrix, int row, const Inputs &inputs, int input) {
        const int8_t *codes = inputs.codes + (size_t)input * matrix.cols;
        const float *extras = inputs.extras + (size_t)input * (matrix.cols / 32) * 4;
        float sum = 0.0f;
        for (int block = 0; block < matrix.cols / F::LEN; block++) {
            BlockWords<F> words = block_of<F>(matrix, row, block);
            for (int group = 0; group < F::LEN / 32; group++, codes += 32, extras += 4) {
                uint32_t weights[8];
                float scale[2], min[2];
                F::unpack(words, group, weights, scale, min);
                const Words4 *x = (const Words4 *)codes;
                int first = dot16(weights, x[0]), second = dot16(weights + 4, x[1]);
                if (F::GROUP == 32) {
                    sum = multiply_add((float)(first + second), scale[0] * extras[0], sum);
                    if (F::MIN) sum = multiply_add(-min[0], extras[1], sum);
                } else {
                    sum = multiply_add((float)first, scale[0] * extras[0], sum);
                    if (F::MIN) sum = multiply_add(-min[0], extras[2], sum);
                    sum = multiply_add((float)second, scale[1] * extras[0], sum);
                    if (F::MIN) sum = multiply_add(-min[1], extras[3], sum);
                }
            }
        }
        return sum;
    }

    /// Columns 32 * group to 32 * group + 32 of a row as floats.
    DEVICE void floats(const Matrix &matrix, int row, int group, float *out) {
        constexpr int GROUPS = F::LEN / 32;
        uint32_t weights[8];
        float scale[2], min[2];
        F::unpack(block_of<F>(matrix, row, group / GROUPS), group % GROUPS, weights, scale, min);
        UNROLL for (int i = 0; i < 32; i++) {
            constexpr int HALF = F::GROUP == 16 ? 16 : 32;
            float value = (float)(int8_t)(weights[i / 4] >> i % 4 * 8) * scale[i / HALF];
            out[i] = F::MIN ? value - min[i / HALF] : value;
        }
    }
};

template <class F> DEVICE float float_product(const Matrix &matrix, int row, const Inputs &inputs, int input) {
    const uint8_t *weights = matrix.bytes + (size_t)row * matrix.cols * F::BYTES;
    const float *x = inputs.values + (size_t)input * matrix.cols;
    float sum = 0.0f;
    for (int i = 0; i < matrix.cols; i++) sum = multiply_add(F::value(weights, i), x[i], sum);
    return sum;
}
template <> struct Product<F32> {
    DEVICE float of(const Matrix &m, int row, const Inputs &x, int input) { return float_product<F32>(m, row, x, input); }
};
template <> struct Product<F16> {
    DEVICE float of(const Matrix &m, int row, const Inputs &x, int input) { return float_product<F16>(m, row, x, input); }
};
template <> struct Product<BF16> {
    DEVICE float of(const Matrix &m, int row, const Inputs &x, int input) { return float_product<BF16>(m, row, x, input); }
};

/// One row of an embedding, times `scale`; added to what is there or in its place.
template <class F> DEVICE void embed(const Matrix &matrix, int row, float scale, bool is_added, float *out) {
    auto put = [&](int column, float weight) {
        float value = scale == 1.0f ? weight : weight * scale;
        out[column] = is_added ? out[column] + value : value;
    };
    if constexpr (F::LEN == 1) {
        const uint8_t *weights = matrix.bytes + (size_t)row * matrix.cols * F::BYTES;
        for (int i = thread_x(); i < matrix.cols; i += THREADS) put(i, F::value(weights, i));
    } else {
        for (int group = thread_x(); group < matrix.cols / 32; group += THREADS) {
            float weights[32];
            Product<F>::floats(matrix, row, group, weights);
            UNROLL for (int i = 0; i < 32; i++) put(group * 32 + i, weights[i]);
        }
    }
}

} // namespace products
#define PRODUCTS_JOIN_(a, b) a##_##b
#define PRODUCTS_JOIN(a, b) PRODUCTS_JOIN_(a, b)
#define OF_FORMAT(name) PRODUCTS_JOIN(name, FORMAT)
#endif

/// A block is a token.
KERNEL void BOUNDS(128, 8)
    OF_FORMAT(embed)(const uint8_t *bytes, int rows, int cols, int is_panels, const uint64_t *points,
                     const int *tokens, float scale, int is_added, float *out) {
    products::Matrix matrix{bytes, rows, cols, is_panels, points};
    products::embed<FORMAT>(matrix, tokens[block_x()], scale, is_added != 0, out + (size_t)block_x() * cols);
}

/// `out[input][at + row]`; blocks are 128 rows of the matrix and an input.
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(products)(const uint8_t *bytes, int rows, int cols, int is_panels, const uint64_t *points,
                        const float *values, const int8_t *codes, const float *extras, float *out, int out_width,
                        int at) {
    int row = block_x() * products::THREADS + thread_x(), input = block_y();
    if (row >= rows) return;
    products::Matrix matrix{bytes, rows, cols, is_panels, points};
    float sum = products::Product<FORMAT>::of(matrix, row, {values, codes, extras}, input);
    out[(size_t)input * out_width + at + row] = sum;
}

/// The same for the choices of each row, a slot each: `addresses` has three matrices of every expert (gate, up, down), 0
/// for those that are not here. `inputs_per_slot` is 1 where every slot has an input of its own, and 0 where those of a
/// row share one. `bias` may be null.
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(expert_products)(const uint64_t *addresses, int which, const int *choices, int used,
                               int inputs_per_slot, int rows, int cols, int is_panels, const uint64_t *points,
                               const float *values, const int8_t *codes, const float *extras, const float *bias,
                               float *out) {
    int row = block_x() * products::THREADS + thread_x(), slot = block_y(), expert = choices[slot];
    if (row >= rows || expert < 0) return;
    const uint8_t *bytes = (const uint8_t *)addresses[(size_t)expert * 3 + which];
    if (!bytes) return;
    products::Matrix matrix{bytes, rows, cols, is_panels, points};
    int input = inputs_per_slot ? slot : slot / used;
    float sum = products::Product<FORMAT>::of(matrix, row, {values, codes, extras}, input);
    out[(size_t)slot * rows + row] = bias ? sum + bias[(size_t)expert * rows + row] : sum;
}
