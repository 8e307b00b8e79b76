// What carries a state along a sequence: causal convolutions and linear recurrences.
//
// Blocks have 128 threads; block_y() is a run, the rows of one sequence, which stand together in a step. Rows come one after
// the other, as in engine/src/kernels/recurrence.rs, and so do the sums: the bits are the same, and a prompt's do not depend
// on the pieces that it is computed in. A state that is to be kept after some position is written to its snapshot there.
#include "steps_math.cuh"

/// Bytes of shared memory of `scan`: a group of a state, and sums of warps.
#define SCAN_SHARED(key_length) (((key_length) + 3 * steps::WARPS) * 32 * 4)

namespace along {

using namespace steps;

/// Inputs that a sum of a convolution takes at most.
constexpr int MOST_TAPS = 8;
/// Snapshots that a table has room for.
constexpr int SNAPSHOTS = 4;
/// Columns of a state that lie together: a lane each.
constexpr int COLUMNS = 32;

/// The rows of a step, and where their sequences are.
struct Step {
    const int *runs, *positions, *sequences; // (runs, 2): first row, rows
    const uint64_t *tables;
    int layer, max_pages, behind_pages;
};

/// One sequence's rows, and where its state of the layer is.
struct Run {
    int first, end, position; // of the first row
    float *state;
    const uint64_t *ends; // of snapshots: positions and addresses by turns
    size_t distance;      // of the layer's state from where all states begin, in bytes
};

DEVICE Run run_of(const Step &step, int state_at) {
    int first = step.runs[2 * block_y()];
    const uint64_t *table = (const uint64_t *)step.tables[step.sequences[first]];
    uint64_t state = table[(size_t)step.layer * 2 * step.max_pages] + (uint64_t)state_at * 4;
    const uint64_t *behind = table + step.behind_pages;
    return {first,  first + step.runs[2 * block_y() + 1], step.positions[first], (float *)state, behind + 1,
            (size_t)(state - behind[0])};
}

/// Where the state is kept as it is after a row; null where it is not.
DEVICE float *kept(const Run &run, int row) {
    uint64_t held = (uint64_t)(run.position + row - run.first + 1);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (run.ends[2 * i] == held) return (float *)(run.ends[2 * i + 1] + run.distance);
    return nullptr;
}

/// ln(1 + e^x).
DEVICE float softplus(float x) { return x > 20.0f ? x : libm_log1p(exponential(x)); }

} // namespace along

/// Sums over a channel's last inputs, in place; the state holds those before the first row. `activation` is below 0 where
/// there is none. Blocks in x are channels.
KERNEL void BOUNDS(steps::THREADS, 8)
    convolve(float *x, int width, int at, int channels, int taps, const float *weights, const float *bias, int activation,
             const int *runs, const int *positions, const int *sequences, const uint64_t *tables, int layer,
             int max_pages, int behind_pages) {
    using namespace along;
    int channel = block_x() * THREADS + thread_x(), history = taps - 1;
    if (channel >= channels) return;
    Run run = run_of({runs, positions, sequences, tables, layer, max_pages, behind_pages}, 0);
    float past[MOST_TAPS], by[MOST_TAPS];
    UNROLL for (int tap = 0; tap < MOST_TAPS; tap++) {
        past[tap] = tap < history ? run.state[tap * channels + channel] : 0.0f;
        by[tap] = tap < taps ? weights[tap * channels + channel] : 0.0f;
    }
    auto store = [&](float *state) {
        UNROLL for (int tap = 0; tap < MOST_TAPS; tap++)
            if (tap < history) state[tap * channels + channel] = past[tap];
    };
    float start = bias ? bias[channel] : 0.0f;
    for (int row = run.first; row < run.end; row++) {
        float *place = x + (size_t)row * width + at + channel;
        float input = *place, sum = start;
        UNROLL for (int tap = 0; tap < MOST_TAPS; tap++) {
            if (tap == history) past[tap] = input;
            if (tap < taps) sum = multiply_add(past[tap], by[tap], sum);
        }
        UNROLL for (int tap = 0; tap + 1 < MOST_TAPS; tap++)
            if (tap < history) past[tap] = past[tap + 1];
        *place = activation < 0 ? sum : activated(activation, sum);
        if (float *snapshot = kept(run, row)) store(snapshot);
    }
    store(run.state);
}

/// A recurrence with a matrix of (key, value) numbers as the state of each value head, 32 values beside each other: see
/// `ScanStep` of the model. Blocks in x are a head's groups of values, heads after heads; a warp has every fourth key.
/// `sharing` value heads that are neighbours have a key head in common; 0: every so manieth, of `key_heads`.
/// `strengths_at` is below 0 where all of a value is taken in. SCAN_SHARED(key_length).
KERNEL void BOUNDS(steps::THREADS, 4)
    scan(const float *x, int width, int query_at, int query_stride, int key_at, int key_stride, int key_heads,
         int key_length, int sharing, int value_at, int value_stride, int value_heads, int value_length, int steps_at,
         const float *step_bias, const float *rate, int strengths_at, const float *skip, int state_at, const int *runs,
         const int *positions, const int *sequences, const uint64_t *tables, int layer, int max_pages,
         int behind_pages, float *out) {
    using namespace along;
    SHARED_MEMORY(shared);
    int groups = (value_length + COLUMNS - 1) / COLUMNS, head = block_x() / groups, group = block_x() % groups;
    int warp = thread_x() >> 5, lane = thread_x() & 31, column = group * COLUMNS + lane;
    int key_head = sharing ? head / sharing : head % key_heads;
    bool is_column = column < value_length;
    float *state = (float *)shared + lane, *places = state + key_length * COLUMNS;
    int group_at = state_at + (head * groups + group) * key_length * COLUMNS;
    Run run = run_of({runs, positions, sequences, tables, layer, max_pages, behind_pages}, group_at);
    // What is left of keys behind the last four is the first warp's.
    int whole = key_length / WARPS * WARPS;
    auto each_key = [&](auto work) {
        for (int key = warp; key < whole; key += WARPS) work(key);
        if (warp == 0)
            for (int key = whole; key < key_length; key++) work(key);
    };
    auto store = [&](float *to) {
        each_key([&](int key) { to[key * COLUMNS + lane] = state[key * COLUMNS]; });
    };
    // Sums of the warps; three places take turns, so that none is written before all have read it.
    auto joined = [&](float sum, int place) {
        float *sums = places + place * WARPS * COLUMNS;
        sums[warp * COLUMNS] = sum;
        sync_block();
        return sums[0] + sums[COLUMNS] + (sums[2 * COLUMNS] + sums[3 * COLUMNS]);
    };
    each_key([&](int key) { state[key * COLUMNS] = run.state[key * COLUMNS + lane]; });
    for (int row = run.first; row < run.end; row++) {
        const float *own = x + (size_t)row * width;
        const float *query = own + query_at + key_head * query_stride, *keys = own + key_at + key_head * key_stride;
        float value = is_column ? own[value_at + head * value_stride + column] : 0.0f;
        float length = softplus(own[steps_at + head] + step_bias[head]);
        float decay = exponential(rate[head] * length), taken = value * length;
        if (strengths_at >= 0) {
            float known = 0.0f;
            each_key([&](int key) { known = multiply_add(state[key * COLUMNS], keys[key], known); });
            known = joined(known, 2);
            taken = (value - known * decay) * sigmoid(own[strengths_at + head]);
        }
        float sum = 0.0f;
        each_key([&](int key) {
            float fresh = multiply_add(taken, keys[key], state[key * COLUMNS] * decay);
            state[key * COLUMNS] = fresh;
            sum = multiply_add(fresh, query[key], sum);
        });
        sum = joined(sum, row & 1);
        if (skip) sum = multiply_add(value, skip[head], sum);
        if (warp == 0 && is_column) out[((size_t)row * value_heads + head) * value_length + column] = sum;
        if (float *snapshot = kept(run, row)) store(snapshot);
    }
    store(run.state);
}
