// Products of a matrix with the inputs of many rows, on tensor cores: 64 rows of the matrix times up to 64 inputs for a
// block, whose warps have 16 rows each.
//
// Weights are unpacked once for all inputs of a tile, as signed bytes, into shared memory, while the columns before them
// are multiplied. A group's products add up as whole numbers, exactly, and become floats without a conversion: the sums
// begin at the bits of a float that they count up from. What a group adds is added in the order of columns with the same
// operations as products.cuh has, so that a row of a prompt has the bits that it has alone.
#pragma once
#include "products.cuh"

namespace prompts {

using products::Inputs;
using products::Matrix;
using products::PANEL;
using products::THREADS;

/// Rows and inputs of a tile, and groups of 32 columns that are there at once.
constexpr int ROWS = 64, INPUTS = 64, GROUPS = 2;
/// Of a row or an input in shared memory, and of the pieces that its columns lie in.
constexpr int ROW_BYTES = GROUPS * 32, PIECE = 16;
/// Eights of inputs that are multiplied together, so that they wait together.
constexpr int TOGETHER = 2;
/// The bits of ZERO: whole numbers up to four million count them up to those of as much more.
constexpr uint32_t ZERO_BITS = 0x4b400000;
constexpr float ZERO = 12582912.0f;

/// Tiles of inputs whose rows have chosen the same expert: `list` has their number, then of each the expert, where its
/// slots begin in `slots`, and how many they are.
struct Chosen {
    const int *list, *slots;
    /// Three matrices of every expert (gate, up, down), 0 for those that are not here; and which of them it is.
    const uint64_t *addresses;
    int which;
    /// Slots that share an input.
    int sharing;
};

/// Where results go: `values[input or slot][at + row]`, plus a bias where that is not null.
struct Out {
    const float *bias;
    float *values;
    int width, at;
};

/// What the products of a group are multiplied with, and with mins the negative of what is taken away: of either half
/// where these have their own.
template <int terms, bool has_min> struct alignas(4 * terms) Factors {
    float scale[terms];
};
template <int terms> struct alignas(8 * terms) Factors<terms, true> {
    float scale[terms], less[terms];
};

/// Columns of a tile. There are two of them: one is filled while the other is multiplied.
template <class F> struct alignas(16) Stage {
    static constexpr int TERMS = 32 / F::GROUP;
    uint8_t weights[ROWS * ROW_BYTES], codes[INPUTS * ROW_BYTES];
    float extras[GROUPS][INPUTS][4];
    Factors<TERMS, F::MIN> factors[GROUPS][ROWS];
};
template <class F> struct Shared {
    Stage<F> stages[2];
    /// What sums begin at, from memory: constants would be copied to registers for every multiplication.
    Words4 zeros;
};
#define PROMPTS_SHARED(F) sizeof(prompts::Shared<F>)

/// Where a piece of a row lies: eight rows that follow each other have theirs in different banks, and so have four rows two
/// that follow each other.
DEVICE int place(int row, int piece) {
    return row * ROW_BYTES + (piece ^ (row & 2) ^ (row >> 2 & 1)) * PIECE;
}

/// What a warp's lane has of the tile's results: of two rows, eight apart, two inputs of every eight.
struct Sums {
    float of[INPUTS / 8][4];
};

/// A tile: 64 rows of a matrix with inputs of which each thread copies two quarters.
template <class F> struct Tile {
    const Matrix &matrix;
    Shared<F> *shared;
    int first_row, count;
    const int8_t *codes[2];
    const float *extras;

    /// Sums of a group, and words of one that a lane has of a row.
    static constexpr int PARTS = F::LEN / 32, TERMS = Stage<F>::TERMS, WORDS = 2 / TERMS;

    /// Groups that are there from `start` on.
    METHOD int groups(int start) const {
        int left = matrix.cols / 32 - start;
        return left < GROUPS ? left : GROUPS;
    }

    /// Begins to copy the inputs of the columns from group `start` on.
    METHOD void fetch(int start, Stage<F> &to) const {
        int here = groups(start), thread = thread_x(), piece = thread & 3;
        UNROLL for (int half = 0; half < 2; half++) {
            int input = (thread >> 2) + half * INPUTS / 2;
            if (input < count && piece < here * 2)
                copy_async(to.codes + place(input, piece), codes[half] + start * 32, true);
        }
        if (thread >> 1 < count && (thread & 1) < here)
            copy_async(to.extras[thread & 1][thread >> 1], extras + start * 4, true);
        copies_commit();
    }

    /// Unpacks their weights: a thread has a group of a row.
    METHOD void unpack(int start, Stage<F> &to) const {
        int row = thread_x() & (ROWS - 1), group = thread_x() / ROWS;
        if (first_row + row >= matrix.rows || group >= groups(start)) return;
        uint32_t weights[8];
        float scale[2], min[2];
        int block = (start + group) / PARTS, part = (start + group) % PARTS;
        // All of the tile's rows are in panels, but for the last tile's of a matrix.
        if (F::PANELS && matrix.is_panels && first_row + ROWS <= matrix.rows / PANEL * PANEL)
            F::unpack(products::panel_block<F>(matrix, first_row + row, block), part, weights, scale, min);
        else
            F::unpack(products::any_block<F>(matrix, first_row + row, block), part, weights, scale, min);
        UNROLL for (int i = 0; i < 2; i++)
            *(Words4 *)(to.weights + place(row, group * 2 + i)) = {weights[4 * i], weights[4 * i + 1],
                                                                   weights[4 * i + 2], weights[4 * i + 3]};
        auto &factors = to.factors[group][row];
        UNROLL for (int i = 0; i < Stage<F>::TERMS; i++) {
            factors.scale[i] = scale[i];
            if constexpr (F::MIN) factors.less[i] = -min[i];
        }
    }

    /// The lane's words of a row's group, or of a half of it. Which columns are which of the multiplication's is all the same
    /// while they are the same on both sides, so words lie side by side.
    METHOD void columns(const uint8_t *tile, int row, int group, int half, uint32_t (&words)[WORDS]) const {
        struct alignas(4 * WORDS) Words {
            uint32_t of[WORDS];
        };
        Words found = *(const Words *)column(tile, row, group, half, 0);
        UNROLL for (int i = 0; i < WORDS; i++) words[i] = found.of[i];
    }
    METHOD const uint8_t *column(const uint8_t *tile, int row, int group, int half, int word) const {
        int at = (thread_x() & 3) * 4 * WORDS;
        return tile + place(row, group * 2 + half + at / PIECE) + at % PIECE + word * 4;
    }

    /// Adds what they make.
    METHOD void multiply(int start, const Stage<F> &from, Sums &sums) const {
        int lane = thread_x() & 31, row = thread_x() / 32 * 16 + lane / 4, quarter = lane & 3;
        int here = groups(start);
        Words4 four = shared->zeros;
        const int zeros[4] = {(int)four.x, (int)four.y, (int)four.z, (int)four.w};
        for (int group = 0; group < here; group++) {
            uint32_t weights[TERMS][2 * WORDS];
            UNROLL for (int half = 0; half < TERMS; half++) {
                // Word by word, each to the register where the multiplication wants it.
                UNROLL for (int i = 0; i < 2 * WORDS; i++)
                    weights[half][i] =
                        *(const volatile uint32_t *)column(from.weights, row + i % 2 * 8, group, half, i / 2);
            }
            const Factors<TERMS, F::MIN> by[2] = {from.factors[group][row], from.factors[group][row + 8]};
            UNROLL for (int eight = 0; eight < INPUTS / 8; eight++) {
                if (eight % TOGETHER == 0 && eight * 8 >= count) break;
                const float(*extras)[4] = from.extras[group] + eight * 8 + quarter * 2;
                UNROLL for (int half = 0; half < TERMS; half++) {
                    uint32_t inputs[WORDS];
                    columns(from.codes, eight * 8 + lane / 4, group, half, inputs);
                    int dots[4];
                    mma_s8(dots, weights[half], inputs, zeros);
                    UNROLL for (int i = 0; i < 4; i++) {
                        float &sum = sums.of[eight][i];
                        float dot = bits_to_float(dots[i]) - ZERO;
                        sum = multiply_add(dot, by[i >> 1].scale[half] * extras[i & 1][0], sum);
                        if constexpr (F::MIN)
                            sum = multiply_add(by[i >> 1].less[half], extras[i & 1][TERMS == 1 ? 1 : 2 + half], sum);
                    }
                }
            }
        }
    }

    /// The sums of all columns.
    METHOD Sums product() const {
        Sums sums = {};
        int all = (matrix.cols / 32 + GROUPS - 1) / GROUPS;
        for (int number = 0; number <= all; number++) {
            copies_wait<0>();
            sync_block(); // what is multiplied now is there, and what was multiplied last is not in use
            if (number < all) {
                Stage<F> &next = shared->stages[number % 2];
                fetch(number * GROUPS, next);
                unpack(number * GROUPS, next);
            }
            if (number > 0) multiply((number - 1) * GROUPS, shared->stages[(number - 1) % 2], sums);
        }
        return sums;
    }
};

/// The tiles of a product, which `blocks` blocks share: those of a matrix with `width` inputs each, or of chosen experts
/// where there is a list. PROMPTS_SHARED(F) of shared memory.
template <class F>
DEVICE void multiply(Matrix matrix, const Inputs &inputs, int all, const Chosen &chosen, const Out &out, int width,
                     int blocks, void *shared) {
    int row_tiles = (matrix.rows + ROWS - 1) / ROWS;
    int tiles = (chosen.list ? *chosen.list : (all + width - 1) / width) * row_tiles;
    if (thread_x() == 0) ((Shared<F> *)shared)->zeros = {ZERO_BITS, ZERO_BITS, ZERO_BITS, ZERO_BITS};
    for (int number = block_x(); number < tiles; number += blocks) {
        int first = number / row_tiles * width, count = all - first < width ? all - first : width;
        const float *bias = out.bias;
        if (chosen.list) {
            const int *tile = chosen.list + 1 + number / row_tiles * 3;
            int expert = tile[0];
            first = tile[1], count = tile[2];
            matrix.bytes = (const uint8_t *)chosen.addresses[(size_t)expert * 3 + chosen.which];
            if (!matrix.bytes) continue; // the whole block
            if (bias) bias += (size_t)expert * matrix.rows;
        }
        auto slot = [&](int n) { return chosen.list ? chosen.slots[first + n] : first + n; };
        auto input = [&](int n) { return n < count ? slot(n) / chosen.sharing : 0; };
        int thread = thread_x(), quarter = (thread & 3) * PIECE;
        Tile<F> tile = {matrix, (Shared<F> *)shared, number % row_tiles * ROWS, count, {}, nullptr};
        UNROLL for (int half = 0; half < 2; half++)
            tile.codes[half] =
                inputs.codes + (size_t)input((thread >> 2) + half * INPUTS / 2) * matrix.cols + quarter;
        tile.extras = inputs.extras + ((size_t)input(thread >> 1) * (matrix.cols / 32) + (thread & 1)) * 4;
        Sums sums = tile.product();
        int lane = thread & 31, first_row = tile.first_row + thread / 32 * 16 + lane / 4;
        UNROLL for (int eight = 0; eight < INPUTS / 8; eight++)
            UNROLL for (int i = 0; i < 4; i++) {
                int n = eight * 8 + lane % 4 * 2 + (i & 1), row = first_row + (i >> 1) * 8;
                if (n >= count || row >= matrix.rows) continue;
                float sum = sums.of[eight][i];
                out.values[(size_t)slot(n) * out.width + out.at + row] = bias ? sum + bias[row] : sum;
            }
    }
}

} // namespace prompts
