// Matrix products of one format, its rows of an embedding, and its experts: compiled once per format, which the macro
// FORMAT names.
#include "products.cuh"

#ifndef PRODUCTS_ONCE
#define PRODUCTS_ONCE
namespace products {

/// `out[input][at + row]`, plus a bias where that is not null. Blocks are 32 rows of the matrix and, of blocks of codes,
/// four inputs.
template <class F>
DEVICE void products_of(const Matrix &matrix, const Inputs &inputs, int all, const float *bias,
                        float *out, int out_width, int at, void *shared) {
    int first_row = block_x() * ROWS;
    auto put = [&](int input, int row, float sum) {
        out[(size_t)input * out_width + at + row] = bias ? sum + bias[row] : sum;
    };
    if constexpr (F::LEN == 1) {
        int input = block_y();
        block_of_floats<F>(matrix, first_row, inputs, input, shared,
                           [&](int row, float sum) { put(input, row, sum); });
    } else {
        int row = first_row + (thread_x() & 31), first = block_y() * WARPS;
        int count = all - first < WARPS ? all - first : WARPS;
        bool is_row = row < matrix.rows;
        auto of_row = [&](int n, float sum) { put(first + n, row, sum); };
        // One input leaves room for longer tiles.
        if (all == 1)
            block_product<F, 1>(matrix, row, is_row, inputs, first, count, shared, of_row);
        else
            block_product<F, WARPS>(matrix, row, is_row, inputs, first, count, shared, of_row);
    }
}

/// The same for the choices of each row, a slot each: `addresses` has three matrices of every expert (gate, up, down), 0
/// for those that are not here. `inputs_per_slot` is 1 where every slot has an input of its own, and 0 where those of a
/// row share one. `bias` may be null.
template <class F>
DEVICE void expert_products_of(const Matrix &matrix, const Inputs &inputs, int input,
                               const float *bias, float *out, void *shared) {
    int first_row = block_x() * ROWS, row = first_row + (thread_x() & 31);
    auto put = [&](int row, float sum) { out[row] = bias ? sum + bias[row] : sum; };
    if constexpr (F::LEN == 1)
        block_of_floats<F>(matrix, first_row, inputs, input, shared, put);
    else
        block_product<F, 1>(matrix, row, row < matrix.rows, inputs, input, 1, shared,
                            [&](int, float sum) { put(row, sum); });
}

} // namespace products
#endif

/// A block is a token.
KERNEL void BOUNDS(128, 8)
    OF_FORMAT(embed)(const uint8_t *bytes, int rows, int cols, int is_panels, const uint64_t *points,
                     const int *tokens, float scale, int is_added, float *out) {
    products::Matrix matrix{bytes, rows, cols, is_panels, points};
    products::embed<FORMAT>(matrix, tokens[block_x()], scale, is_added != 0, out + (size_t)block_x() * cols);
}

/// Products of a matrix; see `products_of`.
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(products)(const uint8_t *bytes, int rows, int cols, int is_panels, const uint64_t *points,
                        const float *values, const int8_t *codes, const float *extras, int inputs, const float *bias,
                        float *out, int out_width, int at) {
    SHARED_MEMORY(shared);
    products::Matrix matrix{bytes, rows, cols, is_panels, points};
    products::products_of<FORMAT>(matrix, {values, codes, extras}, inputs, bias, out, out_width, at, shared);
}

/// Products of chosen experts; see `expert_products_of`.
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(expert_products)(const uint64_t *addresses, int which, const int *choices, int used,
                               int inputs_per_slot, int rows, int cols, int is_panels, const uint64_t *points,
                               const float *values, const int8_t *codes, const float *extras, const float *bias,
                               float *out) {
    SHARED_MEMORY(shared);
    int slot = block_y(), expert = choices[slot];
    if (expert < 0) return;
    const uint8_t *bytes = (const uint8_t *)addresses[(size_t)expert * 3 + which];
    if (!bytes) return; // the whole block
    products::Matrix matrix{bytes, rows, cols, is_panels, points};
    int input = inputs_per_slot ? slot : slot / used;
    products::expert_products_of<FORMAT>(matrix, {values, codes, extras}, input, bias ? bias + (size_t)expert * rows : nullptr,
                               out + (size_t)slot * rows, shared);
}
