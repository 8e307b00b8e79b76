// The steps of a forward that work on rows alone: norms, spans, rotations, activations, rounding, routing.
//
// Every kernel runs blocks of 128 threads, block_x() is the row and block_y() the piece or head, and needs no
// dynamic shared memory but what stands beside it. Numbers and orders are those of engine/src/ops and
// model/moe.rs; so are the bits, but for norms, whose sums go through a tree. What a row becomes does not
// depend on the other rows.
#include "route.cuh"

using namespace steps;

namespace steps {
/// Tokens of a strand; those that `best` finds at least, those that it has room for, and the width of its rows.
constexpr int STRAND = 32, BEST_WANTED = 64, BEST = 120, BEST_WIDTH = 4 + 2 * BEST;
static_assert(BEST <= THREADS && STRAND == 32, "a thread for each of the best, a lane for each of a strand");
} // namespace steps

/// Bytes of shared memory.
#define ROUTE_CAPACITY_SHARED(experts) ((experts) * 4 + steps::THREADS * 4)
#define BEST_SHARED (3 * steps::WARPS * 4 + 2 * steps::BEST * 4)

DEVICE size_t row_start(int width) { return (size_t)block_x() * width; }

/// Not `norm`: CUDA's own headers declare a C function of that name. NORM_SHARED.
KERNEL void BOUNDS(steps::THREADS, 8)
    norm_rows(const float *x, const float *weight, const float *bias, float epsilon, int is_layer_norm,
              float *out, int width) {
    SHARED_MEMORY(shared);
    size_t start = row_start(width);
    norm_piece(x + start, {weight, bias, epsilon, is_layer_norm}, out + start, width, (float *)shared);
}

/// All pieces have the same weights. NORM_SHARED.
KERNEL void BOUNDS(steps::THREADS, 8)
    norm_span(float *x, const float *weight, const float *bias, float epsilon, int is_layer_norm, int width,
              int at, int piece, int stride) {
    SHARED_MEMORY(shared);
    float *values = x + row_start(width) + at + block_y() * stride;
    norm_piece(values, {weight, bias, epsilon, is_layer_norm}, values, piece, (float *)shared);
}

KERNEL void BOUNDS(steps::THREADS, 8)
    copy_span(const float *x, int x_width, int x_at, int x_stride, float *out, int out_width, int out_at,
              int out_stride, int piece) {
    const float *from = x + row_start(x_width) + x_at + block_y() * x_stride;
    float *to = out + row_start(out_width) + out_at + block_y() * out_stride;
    for (int i = thread_x(); i < piece; i += THREADS) to[i] = from[i];
}

/// Pieces times what `factor` makes of pieces of the same size: 0 themselves, 1 their sigmoid, 2 Silu.
KERNEL void BOUNDS(steps::THREADS, 8)
    multiply_span(const float *x, int x_width, int x_at, int x_stride, float *out, int out_width, int out_at,
                  int out_stride, int piece, int factor) {
    const float *from = x + row_start(x_width) + x_at + block_y() * x_stride;
    float *to = out + row_start(out_width) + out_at + block_y() * out_stride;
    for (int i = thread_x(); i < piece; i += THREADS) {
        float value = from[i];
        to[i] *= factor == 0 ? value : factor == 1 ? sigmoid(value) : activated(SILU, value);
    }
}

/// Turns the first `dims` columns of a piece; a row of angles holds the cosines of all pairs, then the sines.
KERNEL void BOUNDS(steps::THREADS, 8)
    rope(float *x, const float *angles, int dims, int is_neox, int width, int at, int /*piece*/, int stride) {
    float *piece = x + row_start(width) + at + block_y() * stride;
    turn(piece, angles + row_start(dims), dims / 2, is_neox != 0);
}

KERNEL void BOUNDS(steps::THREADS, 8) add(float *x, const float *added, float scale, int width) {
    size_t start = row_start(width);
    for (int i = thread_x(); i < width; i += THREADS) x[start + i] += added[start + i] * scale;
}

KERNEL void BOUNDS(steps::THREADS, 8) scale(float *x, float factor, int width) {
    for (int i = thread_x(); i < width; i += THREADS) x[row_start(width) + i] *= factor;
}

/// `cap * tanh(x / cap)`.
KERNEL void BOUNDS(steps::THREADS, 8) cap(float *x, float most, int width) {
    for (int i = thread_x(); i < width; i += THREADS) {
        float *place = x + row_start(width) + i;
        *place = most * (1.0f - 2.0f / (exponential(2.0f * *place / most) + 1.0f));
    }
}

KERNEL void BOUNDS(steps::THREADS, 8) clear(float *x, int width) {
    for (int i = thread_x(); i < width; i += THREADS) x[row_start(width) + i] = 0.0f;
}

KERNEL void BOUNDS(steps::THREADS, 8) select_rows(const float *x, const int *rows, float *out, int width) {
    const float *from = x + (size_t)rows[block_x()] * width;
    for (int i = thread_x(); i < width; i += THREADS) out[row_start(width) + i] = from[i];
}

/// The function between up and down of a row. Without a gate `up` itself goes through it.
DEVICE void activate_row(const float *gate, float *up, int kind, int width) {
    size_t start = row_start(width);
    for (int i = thread_x(); i < width; i += THREADS) {
        float value = gate ? gate[start + i] : 0.0f;
        up[start + i] = gated(kind, gate != nullptr, value, up[start + i]);
    }
}

/// `kind`: 0 Silu, 1 GeluErf, 2 GeluTanh, 3 Relu, 4 SwigluOai, 5 ReluSquared.
KERNEL void BOUNDS(steps::THREADS, 8) activate(const float *gate, float *up, int kind, int width) {
    activate_row(gate, up, kind, width);
}

/// The same for the slots of experts that have an address, of which `addresses` holds three each.
KERNEL void BOUNDS(steps::THREADS, 8)
    activate_slots(const float *gate, float *up, int kind, int width, const int *choices,
                   const uint64_t *addresses) {
    int expert = choices[block_x()];
    if (expert >= 0 && addresses[(size_t)expert * 3 + 1]) activate_row(gate, up, kind, width);
}

KERNEL void BOUNDS(steps::THREADS, 8) weigh_by_sigmoid(const float *weights, float *out, int width) {
    float weight = sigmoid(weights[block_x()]);
    for (int i = thread_x(); i < width; i += THREADS) out[row_start(width) + i] *= weight;
}

/// What an adapter adds to a row: `inner` are its products with `A`, `b` is (rank, outputs). Blocks in y are outputs.
DEVICE void add_low_rank_row(const float *inner, int rank, const float *b, float *out, int outputs) {
    int output = block_y() * THREADS + thread_x();
    if (output >= outputs) return;
    float sum = 0.0f;
    for (int k = 0; k < rank; k++) sum = multiply_add(b[(size_t)k * outputs + output], inner[k], sum);
    out[output] += sum;
}

KERNEL void BOUNDS(steps::THREADS, 8)
    add_low_rank(const float *inner, int rank, const float *b, float *out, int out_width, int at, int outputs) {
    add_low_rank_row(inner + row_start(rank), rank, b, out + row_start(out_width) + at, outputs);
}

/// The same for the slots of experts that have an address; `addresses` and `b` hold three each.
KERNEL void BOUNDS(steps::THREADS, 8)
    add_low_rank_slots(const float *inner, int rank, const uint64_t *b, int which, const int *choices,
                       const uint64_t *addresses, float *out, int outputs) {
    int expert = choices[block_x()];
    if (expert < 0 || !addresses[(size_t)expert * 3 + which]) return; // the whole block
    const float *own = (const float *)b[(size_t)expert * 3 + which];
    if (own) add_low_rank_row(inner + row_start(rank), rank, own, out + row_start(outputs), outputs);
}

/// Rows in bytes; see `quantize_row`.
KERNEL void BOUNDS(steps::THREADS, 8)
    quantize(const float *x, int width, int is_coarse, int8_t *codes, float *extras) {
    const float *row = x + row_start(width);
    quantize_row([&](int i) { return row[i]; }, width, is_coarse != 0, codes + row_start(width),
                 extras + row_start(width / 32 * 4));
}

/// A row's experts; see `route_row`. ROUTE_SHARED(experts).
KERNEL void BOUNDS(steps::THREADS, 4)
    route(const float *logits, const float *choice_bias, int experts, int used, int gating, int groups,
          int groups_used, int groups_counted, int normalise, float weight_scale, float threshold,
          const float *expert_scale, int *choices, float *scores) {
    SHARED_MEMORY(shared);
    const float *row = logits + row_start(experts);
    size_t start = row_start(used);
    Routing by{choice_bias, experts, used, gating, groups, groups_used, groups_counted, normalise, weight_scale, threshold,
               expert_scale};
    route_row(by, [&](int i) { return row[i]; }, choices + start, scores + start, shared);
}

/// Leaves out what exceeds an expert's capacity, all first choices in order of rows, then all second ones and
/// so on, and then what the threshold leaves out, which `route` must have been given as 0. One block; its
/// threads are rows that follow each other. ROUTE_CAPACITY_SHARED(experts).
KERNEL void BOUNDS(steps::THREADS, 1)
    route_capacity(int *choices, float *scores, int rows, int experts, int used, int capacity,
                   float threshold) {
    SHARED_MEMORY(shared);
    int *fill = (int *)shared, *tile = fill + experts, thread = thread_x();
    for (int i = thread; i < experts; i += THREADS) fill[i] = 0;
    for (int choice = 0; choice < used; choice++)
        for (int first = 0; first < rows; first += THREADS) {
            size_t entry = (size_t)(first + thread) * used + choice;
            int expert = first + thread < rows ? choices[entry] : -1;
            tile[thread] = expert;
            sync_block();
            int count = 0;
            bool is_last = true;
            for (int i = 0; i < thread; i++) count += tile[i] == expert;
            for (int i = thread + 1; i < THREADS; i++) is_last = is_last && tile[i] != expert;
            if (expert >= 0) count += fill[expert];
            sync_block();
            if (expert >= 0 && is_last) fill[expert] = count + 1;
            if (expert >= 0 && count >= capacity) choices[entry] = -1;
        }
    if (!(threshold > 0.0f)) return;
    sync_block();
    for (int row = thread; row < rows; row += THREADS) {
        int *row_choices = choices + (size_t)row * used;
        float *row_scores = scores + (size_t)row * used, all = 0.0f, kept = 0.0f;
        for (int i = 0; i < used; i++) all += row_scores[i];
        for (int i = 0; i < used; i++) {
            if (i > 0 && row_scores[i] < threshold * all) row_choices[i] = -1;
            kept += row_choices[i] < 0 ? 0.0f : row_scores[i];
        }
        float factor = kept > 0.0f ? all / kept : 1.0f;
        for (int i = 0; i < used; i++) row_scores[i] *= factor;
    }
}

/// Adds the kept slots of a row, the strongest choice first.
KERNEL void BOUNDS(steps::THREADS, 8)
    combine(float *added, const float *slots, const int *choices, const float *scores, int used, int width) {
    size_t first = row_start(used);
    for (int i = thread_x(); i < width; i += THREADS) {
        float sum = added[row_start(width) + i];
        for (size_t slot = first; slot < first + used; slot++)
            if (choices[slot] >= 0) sum += scores[slot] * slots[slot * width + i];
        added[row_start(width) + i] = sum;
    }
}

/// NaN counts as the smallest; no score is infinite but downwards.
DEVICE float score_of(float logit) { return smaller(larger(logit, -infinity()), 3.402823466e+38f); }

/// Strands of a row: each has STRAND tokens, as far apart as there are strands, for neighbours are alike.
DEVICE int strands_of(int width) { return (width + STRAND - 1) / STRAND; }

/// The largest logit of every strand and the sum of the weights, the largest one's being 1; a strand is a thread of the
/// blocks in y.
KERNEL void BOUNDS(steps::THREADS, 8)
    strand_tops(const float *logits, const float *temperatures, float *tops, int width) {
    int strands = strands_of(width), strand = block_y() * THREADS + thread_x();
    if (strand >= strands) return;
    const float *row = logits + row_start(width);
    float largest = -infinity(), sum = 0.0f, temperature = temperatures[block_x()];
    for (int i = strand; i < width; i += strands) largest = larger(largest, score_of(row[i]));
    for (int i = strand; i < width; i += strands) {
        float score = score_of(row[i]);
        if (score > -infinity()) sum += exponential((score - largest) / temperature);
    }
    float *top = tops + 2 * (row_start(strands) + strand);
    top[0] = largest;
    top[1] = sum;
}

/// A whole number that grows with a float.
DEVICE uint32_t order_of(float value) {
    uint32_t bits = (uint32_t)float_to_bits(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// Puts the items of the threads that keep theirs behind `count` others, in the order of threads, as long as there is
/// room, and returns how many there would be then. `counts` are WARPS of shared memory.
DEVICE int append(bool is_kept, int item, int *items, int count, int *counts) {
    uint32_t kept = votes(is_kept);
    int lane = thread_x() & 31, warp = thread_x() >> 5;
    if (lane == 0) counts[warp] = count_bits(kept);
    sync_block();
    int at = count + count_bits(kept & ((1u << lane) - 1));
    for (int i = 0; i < warp; i++) at += counts[i];
    int all = count + counts[0] + counts[1] + counts[2] + counts[3];
    if (is_kept && at < BEST) items[at] = item;
    sync_block();
    return all;
}

/// All tokens from a bound on, in their order: at least BEST_WANTED, or one for every other strand. A row of `out` is how
/// many they are (more than BEST: not all of them are here), the bound, the sum of the weights of all tokens, the
/// highest score, then BEST ids and BEST scores. BEST_SHARED.
KERNEL void BOUNDS(steps::THREADS, 4)
    best(const float *logits, const float *temperatures, const float *tops, float *out, int width) {
    SHARED_MEMORY(shared);
    float *places = (float *)shared;
    int *counts = (int *)(places + 2 * WARPS), *kept = counts + WARPS, *ids = kept + BEST;
    int strands = strands_of(width), warp = thread_x() >> 5, lane = thread_x() & 31;
    const float *own = tops + 2 * row_start(strands), *scores = logits + row_start(width);
    float largest = -infinity(), total = 0.0f;
    for (int i = thread_x(); i < strands; i += THREADS) largest = larger(largest, own[2 * i]);
    largest = block_largest(largest, places);
    for (int i = thread_x(); i < strands; i += THREADS)
        if (own[2 * i] > -infinity())
            total += own[2 * i + 1] * exponential((own[2 * i] - largest) / temperatures[block_x()]);
    total = block_sum(total, places + WARPS);
    // Which the BEST_WANTED-th best of the strands' best is, bit by bit: at least as many tokens reach it. Where that is
    // beyond the middle, so many strands have several that there is no room for them.
    int half = (strands + 1) / 2, wanted = half < BEST_WANTED ? half : BEST_WANTED;
    uint32_t order = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t tried = order | 1u << bit;
        float reach = 0.0f;
        for (int i = thread_x(); i < strands; i += THREADS) reach += order_of(own[2 * i]) >= tried;
        reach = block_sum(reach, places + (bit & 1 ? 0 : WARPS));
        if ((int)reach >= wanted) order = tried;
    }
    float bound = bits_to_float((int)(order >> 31 ? order & 0x7fffffffu : ~order));
    auto is_best = [&](float score) { return score >= bound && score > -infinity(); };
    int kept_count = 0, count = 0;
    for (int first = 0; first < strands; first += THREADS) {
        int strand = first + thread_x();
        kept_count = append(strand < strands && is_best(own[2 * strand]), strand, kept, kept_count, counts);
    }
    for (int first = 0; first < kept_count && first < BEST; first += WARPS) {
        bool is_strand = first + warp < kept_count && first + warp < BEST;
        int token = is_strand ? kept[first + warp] + lane * strands : width;
        count = append(token < width && is_best(score_of(scores[token])), token, ids, count, counts);
    }
    if (kept_count > BEST) count = kept_count; // each has one token at least
    float *row = out + row_start(BEST_WIDTH);
    if (thread_x() < count && count <= BEST) {
        int own_id = ids[thread_x()], place = 0;
        for (int i = 0; i < count; i++) place += ids[i] < own_id;
        row[4 + place] = bits_to_float(own_id);
        row[4 + BEST + place] = score_of(scores[own_id]);
    }
    if (thread_x() == 0) {
        row[0] = bits_to_float(count);
        row[1] = bound;
        row[2] = total;
        row[3] = largest;
    }
}
