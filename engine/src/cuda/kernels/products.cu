// Matrix products of one format, its rows of an embedding, and its experts: compiled once per format, which the macro
// FORMAT names.
//
// A block has 32 rows of the matrix, one for each lane, and its four warps share out the columns. What a warp finds of a
// group, a whole number and its factors, goes to shared memory, where one warp adds it up in the order of columns: so
// results have the bits of the CPU's panels, whatever the grid and however many inputs there are. In panels the rows of
// a warp lie side by side, and a word of all of them is two lines of memory.
#include "formats.cuh"

#ifndef PRODUCTS_ONCE
#define PRODUCTS_ONCE
namespace products {

constexpr int PANEL = 16, THREADS = 128, WARPS = 4, ROWS = 32;

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

/// What a group adds to a sum: `dot * factor`, and with mins `less * of`, each in one rounding.
template <class F> struct Term {
    float dot, factor;
};
struct TermWithMin {
    float dot, factor, less, of;
};
template <class F, bool has_min> struct TermOf {
    typedef Term<F> type;
};
template <class F> struct TermOf<F, true> {
    typedef TermWithMin type;
};

template <class F> DEVICE float added(const Term<F> &term, float sum) {
    return multiply_add(term.dot, term.factor, sum);
}
DEVICE float added(const TermWithMin &term, float sum) {
    return multiply_add(term.less, term.of, multiply_add(term.dot, term.factor, sum));
}

/// How a block goes through the columns with N inputs at once.
template <class F, int N> struct Tiles {
    typedef typename TermOf<F, F::MIN>::type Term;
    /// Terms of 32 columns, and of a tile.
    static constexpr int TERMS = 32 / F::GROUP, GROUPS = 32 / N;
    static constexpr int BYTES = GROUPS * TERMS * N * ROWS * (int)sizeof(Term);
};

/// Terms of 32 columns of a row with N inputs; those of an input are `ROWS` apart from the next one's.
template <class F, int N>
DEVICE void terms_of(const Matrix &matrix, int row, int group, const Inputs &inputs, int first, int count,
                     typename Tiles<F, N>::Term *terms) {
    constexpr int GROUPS = F::LEN / 32;
    uint32_t weights[8];
    float scale[2], min[2];
    F::unpack(block_of<F>(matrix, row, group / GROUPS), group % GROUPS, weights, scale, min);
    UNROLL for (int n = 0; n < N; n++) {
        if (n >= count) break;
        size_t start = (size_t)(first + n) * matrix.cols + group * 32;
        const Words4 *x = (const Words4 *)(inputs.codes + start);
        const float *extras = inputs.extras + start / 8;
        int halves[2] = {dot16(weights, x[0]), dot16(weights + 4, x[1])};
        UNROLL for (int i = 0; i < Tiles<F, N>::TERMS; i++) {
            auto &term = terms[(i * N + n) * ROWS];
            term.dot = (float)(F::GROUP == 32 ? halves[0] + halves[1] : halves[i]);
            term.factor = scale[i] * extras[0];
            if constexpr (F::MIN) {
                term.less = -min[i];
                term.of = extras[F::GROUP == 32 ? 1 : 2 + i];
            }
        }
    }
}

/// The block's rows times `count` inputs from `first` on, at most N; `put(n, sum)` is called by the lane of each row.
/// Tiles<F, N>::BYTES of shared memory.
template <class F, int N, class Put>
DEVICE void block_product(const Matrix &matrix, int row, bool is_row, const Inputs &inputs, int first, int count,
                          void *shared, Put put) {
    typedef Tiles<F, N> T;
    typename T::Term *tile = (typename T::Term *)shared + (thread_x() & 31);
    int warp = thread_x() >> 5, groups = matrix.cols / 32;
    float sum = 0.0f;
    for (int start = 0; start < groups; start += T::GROUPS) {
        int here = groups - start < T::GROUPS ? groups - start : T::GROUPS;
        if (is_row)
            for (int group = warp; group < here; group += WARPS)
                terms_of<F, N>(matrix, row, start + group, inputs, first, count, tile + group * T::TERMS * N * ROWS);
        sync_block();
        if (is_row && warp < count)
            for (int i = 0; i < here * T::TERMS; i++) sum = added(tile[(i * N + warp) * ROWS], sum);
        sync_block();
    }
    if (is_row && warp < count) put(warp, sum);
}

/// The same for floats, whose inputs are not rounded: a warp goes along its eight rows, and a lane adds up what the lanes
/// have of one. FLOATS_SHARED bytes of shared memory.
template <class F, class Put>
DEVICE void block_of_floats(const Matrix &matrix, int first_row, const Inputs &inputs, int input, void *shared,
                            Put put) {
    constexpr int OWN = ROWS / WARPS, PITCH = 33; // lanes fall into different banks
    int lane = thread_x() & 31, warp = thread_x() >> 5, first = first_row + warp * OWN;
    const float *x = inputs.values + (size_t)input * matrix.cols;
    float *sums = (float *)shared + warp * OWN * PITCH;
    for (int k = 0; k < OWN && first + k < matrix.rows; k++) {
        const uint8_t *weights = matrix.bytes + (size_t)(first + k) * matrix.cols * F::BYTES;
        float sum = 0.0f;
        for (int i = lane; i < matrix.cols; i += 32) sum = multiply_add(F::value(weights, i), x[i], sum);
        sums[k * PITCH + lane] = sum;
    }
    sync_warp();
    if (lane >= OWN || first + lane >= matrix.rows) return;
    float sum = 0.0f;
    for (int i = 0; i < 32; i++) sum += sums[lane * PITCH + i];
    put(first + lane, sum);
}
#define FLOATS_SHARED (32 * 33 * 4)

/// Columns 32 * group to 32 * group + 32 of a row as floats.
template <class F> DEVICE void floats(const Matrix &matrix, int row, int group, float *out) {
    constexpr int GROUPS = F::LEN / 32, HALF = F::GROUP == 16 ? 16 : 32;
    uint32_t weights[8];
    float scale[2], min[2];
    F::unpack(block_of<F>(matrix, row, group / GROUPS), group % GROUPS, weights, scale, min);
    UNROLL for (int i = 0; i < 32; i++) {
        float value = (float)(int8_t)(weights[i / 4] >> i % 4 * 8) * scale[i / HALF];
        out[i] = F::MIN ? value - min[i / HALF] : value;
    }
}

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
            floats<F>(matrix, row, group, weights);
            UNROLL for (int i = 0; i < 32; i++) put(group * 32 + i, weights[i]);
        }
    }
}

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
