// Products of a matrix in blocks of 32 rows, one for each lane; four warps share out the columns.
//
// What a warp finds of a group, a whole number and its factors, goes to shared memory, where one warp adds it up in the
// order of columns: so results have the bits of the CPU's panels, whatever the grid and however many inputs there are. In
// panels the rows of a warp lie side by side, and a word of all of them is two lines of memory.
#pragma once
#include "formats.cuh"

namespace products {

constexpr int PANEL = 16, THREADS = 128, WARPS = 4, ROWS = 32;

/// Where a matrix is and how it lies. Rows behind the last whole panel lie as in the file.
struct Matrix {
    const uint8_t *bytes;
    int rows, cols, is_panels;
    const uint64_t *points; // of the format's grid
};

/// A block's words beside those of fifteen other rows.
template <class F> struct PanelWords {
    const uint8_t *words, *odds;
    const uint64_t *points;

    METHOD uint32_t word(int i) const { return *(const uint32_t *)(words + F::place(i) * 4 * PANEL); }
    METHOD uint32_t odd() const { return F::BYTES % 4 == 2 ? odds[0] | (uint32_t)odds[1] << 8 : odds[0]; }
    METHOD const uint64_t *grid() const { return points; }
};

/// The same, or in the file's order.
template <class F> struct BlockWords {
    PanelWords<F> panel;
    bool in_panel;

    METHOD uint32_t word(int i) const {
        if (in_panel) return panel.word(i);
        const uint8_t *at = panel.words + i * 4;
        if (F::BYTES % 4 == 0) return *(const uint32_t *)at;
        if (F::BYTES % 2 == 0) return ((const uint16_t *)at)[0] | (uint32_t)((const uint16_t *)at)[1] << 16;
        return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    }
    METHOD uint32_t odd() const { return panel.odd(); }
    METHOD const uint64_t *grid() const { return panel.grid(); }
};

/// A block of a row in a panel.
template <class F> DEVICE PanelWords<F> panel_block(const Matrix &matrix, int row, int block) {
    constexpr int ODD = F::BYTES % 4;
    size_t row_bytes = (size_t)(matrix.cols / F::LEN) * F::BYTES;
    int lane = row % PANEL;
    size_t offset = row / PANEL * PANEL * row_bytes + (size_t)block * F::BYTES * PANEL;
    const uint8_t *at = matrix.bytes + offset;
    // Where a column of blocks begins at a line of the CPU's cache, so do its words.
    bool words_first = ODD == 0 || offset % 64 == 0;
    const uint8_t *words = words_first ? at : at + ODD * PANEL;
    const uint8_t *odds = words_first ? at + (F::BYTES - ODD) * PANEL : at;
    return {words + lane * 4, odds + lane * ODD, matrix.points};
}

/// A block of any row.
template <class F> DEVICE BlockWords<F> any_block(const Matrix &matrix, int row, int block) {
    constexpr int ODD = F::BYTES % 4;
    if (F::PANELS && matrix.is_panels && row < matrix.rows / PANEL * PANEL)
        return {panel_block<F>(matrix, row, block), true};
    size_t row_bytes = (size_t)(matrix.cols / F::LEN) * F::BYTES;
    const uint8_t *at = matrix.bytes + row * row_bytes + (size_t)block * F::BYTES;
    return {F::ODD_FIRST ? PanelWords<F>{at + ODD, at, matrix.points}
                         : PanelWords<F>{at, at + F::BYTES - ODD, matrix.points},
            false};
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

template <bool truth> struct Truth {
    static constexpr bool value = truth;
};

/// How a block goes through the columns with N inputs at once.
template <class F, int N> struct Tiles {
    typedef typename TermOf<F, F::MIN>::type Term;
    /// Terms of 32 columns, and of a tile.
    static constexpr int TERMS = 32 / F::GROUP, GROUPS = 32 / N;
    static constexpr int BYTES = GROUPS * TERMS * N * ROWS * (int)sizeof(Term);
};

/// Terms of the 32 columns `part` of a block of a row with N inputs; those of an input are `ROWS` apart from the next one's. `in_panel`: the row is
/// known to be in one.
template <class F, int N, bool in_panel>
DEVICE void terms_of(const Matrix &matrix, int row, int block, int part, const Inputs &inputs, int first, int count,
                     typename Tiles<F, N>::Term *terms) {
    uint32_t weights[8];
    float scale[2], min[2];
    if constexpr (in_panel)
        F::unpack(panel_block<F>(matrix, row, block), part, weights, scale, min);
    else
        F::unpack(any_block<F>(matrix, row, block), part, weights, scale, min);
    UNROLL for (int n = 0; n < N; n++) {
        if (n >= count) break;
        size_t start = (size_t)(first + n) * matrix.cols + block * F::LEN + part * 32;
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
    // All of the block's rows are in panels, but for the last block's of a matrix.
    bool in_panels = F::PANELS && matrix.is_panels && row / ROWS * ROWS + ROWS <= matrix.rows / PANEL * PANEL;
    constexpr int PARTS = F::LEN / 32;
    auto terms = [&](int block, int part, auto in_panel) {
        typename T::Term *to = tile + (block * PARTS + part) % T::GROUPS * T::TERMS * N * ROWS;
        terms_of<F, N, decltype(in_panel)::value>(matrix, row, block, part, inputs, first, count, to);
    };
    for (int start = 0; start < groups; start += T::GROUPS) {
        int here = groups - start < T::GROUPS ? groups - start : T::GROUPS;
        if (F::PANELS && in_panels && T::GROUPS >= WARPS * PARTS) {
            // A warp takes whole blocks, whose scales and addresses serve all of their parts.
            for (int block = start / PARTS + warp; block < (start + here) / PARTS; block += WARPS)
                UNROLL for (int part = 0; part < PARTS; part++) terms(block, part, Truth<F::PANELS>());
        } else if (is_row) {
            for (int group = start + warp; group < start + here; group += WARPS)
                terms(group / PARTS, group % PARTS, Truth<false>());
        }
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
    F::unpack(any_block<F>(matrix, row, group / GROUPS), group % GROUPS, weights, scale, min);
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

} // namespace products

#define PRODUCTS_JOIN_(a, b) a##_##b
#define PRODUCTS_JOIN(a, b) PRODUCTS_JOIN_(a, b)
/// The name of a kernel of the format that the macro FORMAT names.
#define OF_FORMAT(name) PRODUCTS_JOIN(name, FORMAT)
